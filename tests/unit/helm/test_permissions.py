"""The chart grants what `permissions.py` says, and that is what the operator asks of the API server."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
from kopf._core.intents.registries import OperatorRegistry  # its handlers are not public; nothing else lists them

from finetune_api import GROUP, PLURAL, POLICY_PLURAL
from finetune_operator.controller import Controller
from finetune_operator.kube import PATHS, Kube
from finetune_operator.permissions import PERMISSIONS, Where
from finetune_operator.settings import Settings

from .chart import NAME, NAMESPACE, Body, of_kind, one, render

Grant = tuple[str, str, str, str]
VERBS = {"POST": "create", "GET": "get", "DELETE": "delete", "PATCH": "patch"}


def declared(*where: Where) -> set[Grant]:
    """(group, resource, verb, the one name or empty) of the permissions that hold there."""
    return {
        (item.group, item.resource, verb, NAME if item.the_lease_only else "")
        for item in PERMISSIONS
        if item.where in where
        for verb in item.verbs
    }


def granted(role: Body) -> set[Grant]:
    """The same, of a role."""
    return {
        (group, resource, verb, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def bindings(objects: list[Body]) -> set[tuple[str, str, str]]:
    """(namespace or empty, kind of role, role) of every binding."""
    found = of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding")
    for binding in found:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]
    return {(item["metadata"].get("namespace", ""), item["roleRef"]["kind"], item["roleRef"]["name"]) for item in found}


def test_cluster_wide_the_chart_grants_what_is_declared() -> None:
    objects = render()
    assert granted(one(objects, "ClusterRole", f"{NAME}-cluster")) == declared(Where.CLUSTER)
    assert granted(one(objects, "ClusterRole", f"{NAME}-jobs")) == declared(Where.JOBS)
    assert granted(one(objects, "Role", f"{NAME}-lease")) == declared(Where.OWN)
    assert bindings(objects) == {
        ("", "ClusterRole", f"{NAME}-cluster"),
        ("", "ClusterRole", f"{NAME}-jobs"),
        (NAMESPACE, "Role", f"{NAME}-lease"),
    }


def test_listed_namespaces_are_bound_and_no_others() -> None:
    objects = render({"namespaces": ["team-a", "team-b"]})
    assert granted(one(objects, "ClusterRole", f"{NAME}-cluster")) == declared(Where.CLUSTER)
    assert granted(one(objects, "ClusterRole", f"{NAME}-jobs")) == declared(Where.JOBS)
    assert bindings(objects) == {
        ("", "ClusterRole", f"{NAME}-cluster"),
        ("team-a", "ClusterRole", f"{NAME}-jobs"),
        ("team-b", "ClusterRole", f"{NAME}-jobs"),
        (NAMESPACE, "Role", f"{NAME}-lease"),
    }


@pytest.mark.parametrize("resource", ["secrets", "serviceaccounts", "roles", "nodes", "pods/exec", "*"])
def test_what_the_operator_must_never_have(resource: str) -> None:
    assert all(item.resource != resource and "*" not in (item.group, *item.verbs) for item in PERMISSIONS)


def test_every_permission_says_why_and_is_there_once() -> None:
    assert all(item.why for item in PERMISSIONS)
    pairs = [(item.group, item.resource, verb) for item in PERMISSIONS for verb in item.verbs]
    assert len(pairs) == len(set(pairs))


# --- what the operator asks for


class Recorder:
    """An API client that notes what it is asked, and answers with nothing."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def param_serialize(self, method: str, path: str, **more: Any) -> tuple[str, str, Any, Any, None]:
        return method, path, more["header_params"], more["body"], None

    async def call_api(self, method: str, url: str, *_: Any, **__: Any) -> Any:
        self.asked.append((method, url))

        async def read() -> bytes:
            return b"{}"

        return SimpleNamespace(status=200, headers={}, read=read)


def grant_of(method: str, url: str) -> Grant:
    """What RBAC calls a request."""
    found = re.fullmatch(
        r"/(?:api|apis/(?P<group>[^/]+))/[^/]+(?:/namespaces/[^/]+)?/(?P<plural>\w+)(?:/[^/]+(?P<sub>/\w+)?)?",
        url.split("?", maxsplit=1)[0],
    )
    assert found, url
    verb = "list" if "limit=" in url else VERBS[method]
    return (found["group"] or "", found["plural"] + (found["sub"] or ""), verb, "")


async def everything(kube: Kube) -> None:
    """Each call that the controller makes, of each kind that it makes it of."""
    for kind in ("Job", "ConfigMap", "Event", "Service"):
        await kube.create({"kind": kind, "metadata": {"namespace": "n"}})
        await kube.get(kind, "n", "x")
    for kind in ("Namespace", "FinetunePolicy"):
        await kube.probe(kind)
    await kube.get("Namespace", "", "x")
    await kube.delete_job("n", "x", "uid")
    await kube.patch_status("n", "x", {}, "1")
    await kube.patch_event("n", "x", {})
    await kube.log_tail("n", "x", "c", 1, 1)
    for kind in ("FinetuneJob", "Job", "Pod"):
        await kube.versions(kind, "n", "")
    await kube.workloads("n", "v1beta2")


async def test_the_calls_of_kube_and_the_watches_of_kopf_are_what_is_declared() -> None:
    recorder = Recorder()
    calls = {name for name in vars(Kube) if not name.startswith("_")} - {"connect", "close"}
    # Everybody may ask which API groups there are.
    calls -= {"preferred_version"}
    covered = {
        "create",
        "get",
        "probe",
        "delete_job",
        "patch_status",
        "patch_event",
        "log_tail",
        "versions",
        "workloads",
    }
    assert calls == covered, "cover it in everything()"
    await everything(Kube(recorder, 1.0, lambda verb, code: None))  # type: ignore[arg-type]  # as much as Kube uses
    asked = {grant_of(method, url) for method, url in recorder.asked}
    reached = {grant_of(method, url)[1].split("/")[0] for method, url in recorder.asked}
    assert reached == {path.rpartition("/")[2] for path in PATHS.values()} | {"workloads"}

    registry = kopf.OperatorRegistry()
    Controller(Settings(), asyncio.Event()).register(registry)
    watched = {(group, plural, verb, "") for group, plural in selectors(registry) for verb in ("list", "watch")}
    # Finalizers are what the API server asks for by itself, CRDs what kopf watches of its own accord.
    implied = {
        (GROUP, f"{PLURAL}/finalizers", "update", ""),
        *(("apiextensions.k8s.io", "customresourcedefinitions", verb, "") for verb in ("list", "watch")),
    }
    assert asked | watched | implied == declared(Where.JOBS, Where.CLUSTER)


def selectors(registry: OperatorRegistry) -> set[tuple[str, str]]:
    """(group, plural) of what kopf watches."""
    handlers = [*registry._indexing.get_all_handlers(), *registry._watching.get_all_handlers()]
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    found = {handler.selector for handler in handlers if handler.selector}
    return {(selector.group or "", str(selector.plural or selector.any_name)) for selector in found}


# --- tenants


def test_tenants_roles_aggregate_and_never_write_status() -> None:
    objects = render()
    view, edit = one(objects, "ClusterRole", f"{NAME}-view"), one(objects, "ClusterRole", f"{NAME}-edit")
    policies = one(objects, "ClusterRole", f"{NAME}-policies")

    def aggregates(role: Body) -> set[str]:
        prefix = "rbac.authorization.k8s.io/aggregate-to-"
        return {name.removeprefix(prefix) for name in role["metadata"]["labels"] if name.startswith(prefix)}

    assert aggregates(view) == {"view", "edit", "admin"}
    assert aggregates(edit) == {"edit", "admin"}
    assert aggregates(policies) == {"admin"}
    assert granted(policies) == {(GROUP, POLICY_PLURAL, verb, "") for verb in ("get", "list", "watch")}
    assert {verb for _, _, verb, _ in granted(view)} == {"get", "list", "watch"}
    assert {resource for _, resource, _, _ in granted(edit)} == {PLURAL}
    assert {verb for _, _, verb, _ in granted(edit)} == {"create", "delete", "deletecollection", "patch", "update"}
