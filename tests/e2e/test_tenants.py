"""The chart's operator, with its account's rights alone: tenants served at once, and none reaches another's things."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_api import layout
from finetune_api.status import Status

from .api import FINETUNE_JOBS, JOBS, PODS, SECRETS, Body, wait_for
from .chart import Installed, installed
from .jobs import Tenant, data, training
from .places import Operator, Place

pytestmark = pytest.mark.owns_operator

MINE = "of-the-first-tenant-only"
WORD = "known-to-the-first-tenant-alone"
CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"


@pytest.fixture
def two(new_tenant: Callable[[], Tenant], _operator: Operator) -> tuple[Tenant, Tenant]:
    """Two tenants, and no operator with an administrator's rights that could serve them."""
    found = new_tenant(), new_tenant()
    _operator.stop()
    return found


@pytest.fixture
def listed(two: tuple[Tenant, Tenant], cluster: Place, tmp_path: Path) -> Iterator[Installed]:
    """The chart's operator, its rights bound by RoleBindings in the tenants' namespaces alone."""
    with installed(cluster, [tenant.namespace for tenant in two], tmp_path) as found:
        yield found


@pytest.fixture
def cluster_wide(two: tuple[Tenant, Tenant], cluster: Place, tmp_path: Path) -> Iterator[Installed]:
    """The chart's operator, its rights bound in the whole cluster."""
    del two
    with installed(cluster, [], tmp_path) as found:
        yield found


# --- served


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_tenants_are_served_at_once_with_the_rights_of_role_bindings(
    two: tuple[Tenant, Tenant], listed: Installed
) -> None:
    for tenant in two:
        tenant.apply(tenant.whole_job("tones"))
    for tenant in two:
        ran_well(tenant, tenant.succeeded("tones", seconds=400))
    for path in (tenant.path(SECRETS) for tenant in two):
        assert listed.api.request("GET", path).status_code == 403
    # Where its rights are not bound, it sees nothing.
    assert listed.api.request("GET", JOBS.format(namespace="default")).status_code == 403


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tenant_is_served_with_rights_in_the_whole_cluster_and_the_operators_own_namespace_is_not(
    two: tuple[Tenant, Tenant], cluster_wide: Installed
) -> None:
    first, second = two
    own = Tenant(cluster_wide.place, cluster_wide.namespace, first.inputs)
    first.apply(first.job("tones", [training(steps=5)]))
    own.apply(own.job("tones", [training(steps=5)]))
    ran_well(first, first.succeeded("tones"))
    refused = own.ended("tones", 30)
    assert (refused.phase, own.jobs_of("tones")) == ("Failed", [])
    assert cluster_wide.api.request("GET", second.path(SECRETS)).status_code == 403
    assert cluster_wide.api.request("GET", JOBS.format(namespace=second.namespace)).status_code == 200


def ran_well(tenant: Tenant, status: Status) -> None:
    """The job ran to its end in one attempt a stage, and all that it published lies under its namespace's name."""
    assert {stage.state for stage in status.stages} == {"Succeeded"}, status
    assert {stage.attempts + stage.retries for stage in status.stages} == {1}
    assert tenant.stages_of_jobs("tones") == sorted(stage.name for stage in status.stages)
    words = tenant.namespace, "tones", 1
    root = f"{tenant.place.root}/jobs"
    published = json.loads(tenant.place.bucket.read(layout.join(root, layout.model_manifest_path(*words))))
    assert {item["name"]: item["digest"] for item in published["artifacts"]} == {
        item.name: item.digest for item in status.artifacts
    }


# --- kept apart


def give_secret(tenant: Tenant) -> None:
    """A Secret of good credentials, with a word that must not be seen elsewhere, under a name of its own."""
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": MINE, "namespace": tenant.namespace},
        "stringData": {**tenant.place.credentials, "WORD": WORD},
    }
    tenant.place.api.create(tenant.path(SECRETS), body)
    rows = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": MINE}, "data": {"rows.jsonl": WORD}}
    tenant.place.api.create(tenant.path(CONFIG_MAPS), rows)


def test_no_job_reaches_what_is_another_tenants(two: tuple[Tenant, Tenant], listed: Installed) -> None:
    first, second = two
    del listed
    give_secret(first)
    passes = [training(steps=2)]
    references: list[Body] = [
        {"name": MINE},
        {"name": f"{first.namespace}/{MINE}"},
        {"name": f"../{first.namespace}/{MINE}"},
        {"name": MINE, "namespace": first.namespace},
    ]
    for number, reference in enumerate(references):
        job = second.job(f"secret-{number}", passes)
        job["spec"]["storage"]["credentialsSecretRef"] = reference
        out_of_reach(second, job)
    token = {"modelPath": "example/gated", "tokenSecretRef": {"name": MINE, "key": "WORD"}}
    out_of_reach(second, second.job("token", passes, inputModel=token))
    uris = [
        f"configMap://{MINE}/rows.jsonl",
        f"configMap://{first.namespace}/{MINE}/rows.jsonl",
        f"pvc://claim/../../{first.namespace}/rows.jsonl",
        f"pvc://../{first.namespace}/rows.jsonl",
    ]
    for number, uri in enumerate(uris):
        out_of_reach(second, second.job(f"data-{number}", passes, dataConfigs=[data("train", uri)]))


def out_of_reach(tenant: Tenant, job: Body) -> None:
    """The job is refused, fails or waits for what its own namespace lacks; it never begins with another's."""
    answer = tenant.place.api.request("POST", tenant.path(FINETUNE_JOBS), job, fieldValidation="Strict")
    if not answer.ok:
        assert answer.status_code in (400, 422), answer.text
        return
    name = job["metadata"]["name"]
    wait_for(f"{name} to be looked at", lambda: tenant.pods_of(name) or tenant.status(name).phase == "Failed", 30)
    for pod in tenant.pods_of(name):
        states = [item["state"] for item in pod["status"].get("containerStatuses", [])]
        assert not any("running" in item or "terminated" in item for item in states), f"{name} began"
    parts = [str(tenant.place.api.get(tenant.path(path))) for path in (PODS, CONFIG_MAPS)]
    seen = "".join([*parts, tenant.logs(name), tenant.status(name).model_dump_json()])
    assert WORD not in seen
    assert base64.b64encode(WORD.encode()).decode() not in seen
