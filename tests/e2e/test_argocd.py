"""A job that Argo CD applies: its health at every look, and no drift by the operator's doing."""

from __future__ import annotations

import copy

from ..argocd import health
from .api import APPLY, FINETUNE_JOBS, Body, wait_for
from .jobs import Tenant, data, training

MANAGER = "argocd-controller"
VOLATILE = ("managedFields", "resourceVersion")


def sync(tenant: Tenant, job: Body, **query: str) -> Body:
    """What Argo CD's server-side apply of `job` answers."""
    path = tenant.path(FINETUNE_JOBS, job["metadata"]["name"])
    answer = tenant.place.api.request("PATCH", path, job, kind=APPLY, fieldManager=MANAGER, force="true", **query)
    assert answer.ok, answer.text
    found: Body = answer.json()
    return found


def drift(tenant: Tenant, job: Body) -> bool:
    """Whether Argo CD, which compares a dry run of its apply with what is there, would call the job out of sync."""
    path = tenant.path(FINETUNE_JOBS, job["metadata"]["name"])
    while True:
        before = tenant.place.api.get(path)
        predicted = sync(tenant, job, dryRun="All")
        after = tenant.place.api.get(path)
        # Not a comparison where the operator wrote meanwhile.
        if before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]:
            return plain(predicted) != plain(before)


def plain(body: Body) -> Body:
    metadata = {name: value for name, value in body["metadata"].items() if name not in VOLATILE}
    return {**body, "metadata": metadata}


def look(tenant: Tenant, job: Body) -> str:
    """The health that Argo CD shows, once it has found no drift."""
    assert not drift(tenant, job)
    tenant.status(job["metadata"]["name"])
    return health(tenant.place.api.get(tenant.path(FINETUNE_JOBS, job["metadata"]["name"])))[0]


def test_a_synced_job_goes_from_suspended_to_healthy_without_drift(tenant: Tenant) -> None:
    job = tenant.job("synced", [training(steps=5)], suspend=True)
    seen = [health(sync(tenant, job))[0]]
    wait_for("the job to be suspended", lambda: look(tenant, job) == "Suspended", 30)
    job = copy.deepcopy(job)
    del job["spec"]["suspend"]
    sync(tenant, job)

    def healthy() -> bool:
        seen.append(look(tenant, job))
        return seen[-1] == "Healthy"

    wait_for(lambda: f"the job to be healthy, last: {tenant.status('synced').message}", healthy, 240)
    assert set(seen) == {"Progressing", "Healthy"}
    synced = sync(tenant, job)
    assert not drift(tenant, job)
    assert synced["metadata"]["generation"] == 2, "the second sync changed something"


def test_a_synced_job_that_fails_is_degraded(tenant: Tenant) -> None:
    job = tenant.job("failing", [training(steps=5)], dataConfigs=[data("train", f"{tenant.place.root}/no/such.jsonl")])
    sync(tenant, job)
    wait_for("the job to be degraded", lambda: look(tenant, job) == "Degraded", 60)
