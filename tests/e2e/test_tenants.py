"""Two tenants under the chart's own rights: no job of one reads what is the other's."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .api import FINETUNE_JOBS, PODS, SECRETS, Body, wait_for
from .chart import Installed, installed
from .jobs import Tenant, data, training
from .places import Operator, Place

MINE = "of-the-first-tenant-only"
WORD = "known-to-the-first-tenant-alone"
CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"


@pytest.fixture
def tenants(
    new_tenant: Callable[[], Tenant], _operator: Operator, cluster: Place, tmp_path: Path
) -> Iterator[tuple[Tenant, Tenant, Installed]]:
    """Two tenants, and the chart's operator for them in place of the one that has an administrator's rights."""
    first, second = new_tenant(), new_tenant()
    _operator.stop()
    with installed(cluster, [first.namespace, second.namespace], tmp_path) as found:
        yield first, second, found


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


def test_no_job_reaches_what_is_another_tenants(tenants: tuple[Tenant, Tenant, Installed]) -> None:
    first, second, _ = tenants
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
