"""A FinetunePolicy of the test's own namespace: what it forbids does not start, and starts once it is allowed."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from .api import Body, wait_for
from .jobs import Tenant, training

SECONDS = 15
LIMITS = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "4Gi"}}


def refused(tenant: Tenant, name: str) -> str:
    """The message of a refusal by policy."""
    status = tenant.ended(name, SECONDS)
    condition = next(item for item in status.conditions if item.type == "SpecValid")
    assert (condition.status, condition.reason, status.phase) == ("False", "PolicyViolation", "Failed")
    assert status.plan is None
    # Two watches have no common order: a job that is seen before its policy may be prepared.
    assert set(tenant.stages_of_jobs(name)) <= ({"prepare"} if not tenant.place.local else set())
    return condition.message


def accepted(tenant: Tenant, name: str) -> None:
    """The refusal is taken back."""

    def valid() -> bool:
        return any(item.type == "SpecValid" and item.status == "True" for item in tenant.status(name).conditions)

    wait_for("the spec to be valid", valid, SECONDS)


def test_a_storage_host_is_refused_until_the_policy_lists_it(
    tenant: Tenant, policy: Callable[[Body], None], new_tenant: Callable[[], Tenant]
) -> None:
    host = urlsplit(tenant.place.endpoint).netloc
    policy({"allow": {"storageHosts": ["storage.example.com"]}, "pods": {"labels": {"cost-centre": "e2e"}}})
    name = tenant.apply(tenant.job("held", [training(steps=2)]))
    words = refused(tenant, name)
    assert (
        f"spec.storage.endpoint ({tenant.place.endpoint}): FinetunePolicy e2e-{tenant.namespace} does not allow"
        in words
    )
    assert words.endswith("Allowed: storage.example.com.")
    # Another namespace is another's.
    neighbour = new_tenant()
    free = neighbour.apply(neighbour.job("free", [training(steps=2)]))
    wait_for("the neighbour's job to begin", lambda: neighbour.jobs_of(free), SECONDS)

    policy({"allow": {"storageHosts": ["storage.example.com", host]}})
    accepted(tenant, name)
    jobs = wait_for("the job to begin", lambda: tenant.jobs_of(name), SECONDS)
    assert jobs[0]["spec"]["template"]["metadata"]["labels"]["cost-centre"] == "e2e"
    assert "cost-centre" not in neighbour.jobs_of(free)[0]["spec"]["template"]["metadata"]["labels"]


def test_a_system_of_the_platform_is_there_once_the_policy_has_it(
    tenant: Tenant, policy: Callable[[Body], None]
) -> None:
    job = tenant.job("referring", [training(steps=2)], systems=[{"name": "small", "systemRef": "platform"}])
    name = tenant.apply(job)
    assert "spec.systems[0].systemRef (platform): no FinetunePolicy of this namespace" in refused(tenant, name)
    policy({"systems": [{"name": "platform", "resources": LIMITS}]})

    accepted(tenant, name)
    stages = wait_for("the training's Job", lambda: [job for job in tenant.jobs_of(name) if _trains(job)], 60)
    assert stages[0]["spec"]["template"]["spec"]["containers"][0]["resources"] == LIMITS


def _trains(job: Body) -> bool:
    return bool(job["metadata"]["labels"]["finetune.dev/stage"] == "lora")
