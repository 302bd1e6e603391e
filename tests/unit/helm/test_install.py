"""Helm's own code installs, upgrades and uninstalls the chart on the stand-in API server, which enforces its RBAC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
from kubernetes import client, config, dynamic

from finetune_api import GROUP, PLURAL, VERSION
from finetune_local.apiserver import ApiServer
from finetune_operator.permissions import PERMISSIONS, Permission, Where

from ..api.specs import job_spec
from .chart import CHART, EVERYTHING, NAME, NAMESPACE, RELEASE, Body, render

TENANT, STRANGER = "team-a", "team-b"
VALUES: Body = {"namespaces": [TENANT]}
JOB = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "FinetuneJob", "metadata": {"name": "phi3"}, "spec": job_spec()}


class Cluster:
    """An API server with two tenants' namespaces; clients block, so they run in a thread of their own."""

    def __init__(self, kubeconfig: Body, folder: Path) -> None:
        self.path = folder / "kubeconfig"
        self.path.write_text(json.dumps(kubeconfig))
        self.api = config.new_client_from_config_dict(kubeconfig)
        self.core = client.CoreV1Api(self.api)
        self.custom = client.CustomObjectsApi(self.api)
        self.helm = helm_python.Config(kubeconfig_path=self.path, namespace=NAMESPACE)

    def prepare(self) -> None:
        """Make the tenants' namespaces and install the chart."""
        for name in (TENANT, STRANGER):
            self.core.create_namespace({"metadata": {"name": name}})
        self.helm.install(CHART, RELEASE, VALUES, namespace=NAMESPACE, create_namespace=True, timeout=60)

    def deployment(self) -> Body:
        """The operator's Deployment, as the server has it."""
        found = client.AppsV1Api(self.api).read_namespaced_deployment(NAME, NAMESPACE)
        body: Body = self.api.sanitize_for_serialization(found)
        return body

    def allowed(self, group: str, resource: str, verb: str, namespace: str = "", name: str = "") -> bool:
        """Whether the operator's account may do it."""
        plural, _, sub = resource.partition("/")
        asked = {
            "group": group,
            "resource": plural,
            "subresource": sub,
            "verb": verb,
            "namespace": namespace,
            "name": name,
        }
        user = f"system:serviceaccount:{NAMESPACE}:{NAME}"
        review = client.AuthorizationV1Api(self.api).create_subject_access_review(
            {"spec": {"user": user, "resourceAttributes": asked}}
        )
        return bool(review.status.allowed)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    (tmp_path / "logs").mkdir()
    async with ApiServer(logs_dir=tmp_path / "logs") as server:
        found = Cluster(server.kubeconfig(), tmp_path)
        await asyncio.to_thread(found.prepare)
        yield found


async def test_an_upgrade_loses_nothing_and_uninstalling_keeps_the_jobs(cluster: Cluster) -> None:
    def jobs() -> list[Any]:
        found = cluster.custom.list_namespaced_custom_object(GROUP, VERSION, TENANT, PLURAL)
        return [(item["metadata"]["uid"], item["spec"]) for item in found["items"]]

    def steps() -> None:
        cluster.custom.create_namespaced_custom_object(GROUP, VERSION, TENANT, PLURAL, JOB)
        before, deployed = jobs(), cluster.deployment()
        assert len(before) == 1
        upgraded = {**VALUES, "operator": {"workers": 3}, "dashboard": {"enabled": True}}
        cluster.helm.upgrade(CHART, RELEASE, upgraded, namespace=NAMESPACE, timeout=60)
        assert jobs() == before
        after = cluster.deployment()
        assert after["metadata"]["uid"] == deployed["metadata"]["uid"]
        environment = {
            item["name"]: item.get("value") for item in after["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        assert environment["FINETUNE_WORKERS"] == "3"
        cluster.helm.uninstall(RELEASE, timeout=60)
        assert jobs() == before, "the CRD is kept"
        cluster.helm.install(CHART, RELEASE, VALUES, namespace=NAMESPACE, timeout=60)
        assert jobs() == before

    await asyncio.to_thread(steps)


async def test_a_second_sync_changes_nothing(tmp_path: Path) -> None:
    """What Argo CD would call drift: a server-side apply of the same objects that makes other ones of them."""

    def sync(api: client.ApiClient) -> dict[tuple[str, str], str]:
        kinds = dynamic.DynamicClient(api)
        versions = {}
        for body in sorted(render(EVERYTHING), key=lambda item: item["kind"] != "CustomResourceDefinition"):
            if body["apiVersion"].startswith("monitoring.coreos.com"):
                continue
            name, namespace = body["metadata"]["name"], body["metadata"].get("namespace")
            resource = kinds.resources.get(api_version=body["apiVersion"], kind=body["kind"])
            applied = resource.server_side_apply(
                body, name=name, namespace=namespace, field_manager="argocd-controller", force_conflicts=True
            )
            versions[body["kind"], name] = applied.metadata.resourceVersion
        return versions

    def twice(kubeconfig: Body) -> None:
        api = config.new_client_from_config_dict(kubeconfig)
        for name in (NAMESPACE, *EVERYTHING["namespaces"]):
            client.CoreV1Api(api).create_namespace({"metadata": {"name": name}})
        first = sync(api)
        assert len(first) >= 20
        assert sync(api) == first

    (tmp_path / "logs").mkdir()
    async with ApiServer(logs_dir=tmp_path / "logs") as server:
        await asyncio.to_thread(twice, server.kubeconfig())


async def test_the_account_may_do_what_is_declared_and_only_there(cluster: Cluster) -> None:
    def check() -> None:
        for item in PERMISSIONS:
            for verb in item.verbs:
                assert cluster.allowed(item.group, item.resource, verb, *place(item)), (item.resource, verb)
                if item.where is Where.JOBS:
                    assert not cluster.allowed(item.group, item.resource, verb, STRANGER), (item.resource, verb)
        for group, resource, verb in (
            ("", "secrets", "get"),
            ("", "secrets", "list"),
            ("", "pods", "create"),
            ("", "pods/exec", "create"),
            ("batch", "jobs", "patch"),
            (GROUP, PLURAL, "update"),
            (GROUP, PLURAL, "delete"),
        ):
            assert not cluster.allowed(group, resource, verb, TENANT), (resource, verb)
        assert not cluster.allowed("coordination.k8s.io", "leases", "update", NAMESPACE, "another")
        assert not cluster.allowed("coordination.k8s.io", "leases", "get", TENANT, NAME)

    await asyncio.to_thread(check)


def place(item: Permission) -> tuple[str, str]:
    """Namespace and name where a permission is to hold."""
    namespaces = {Where.JOBS: TENANT, Where.OWN: NAMESPACE}
    return namespaces.get(item.where, ""), NAME if item.the_lease_only else ""
