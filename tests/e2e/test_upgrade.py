"""The chart is upgraded while a job runs: the stage at work goes on, nothing is planned or run a second time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.status import StageState

from .api import Body, wait_for
from .chart import installed, values
from .jobs import MERGE, Tenant, training
from .places import Operator, Place

pytestmark = pytest.mark.owns_operator

# Longer than both replicas need to be replaced.
STEPS = 150


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_running_job_outlives_an_upgrade(
    new_tenant: Callable[[], Tenant], _operator: Operator, cluster: Place, tmp_path: Path
) -> None:
    tenant = new_tenant()
    _operator.stop()
    with installed(cluster, [tenant.namespace], tmp_path) as release:
        tenant.apply(tenant.job("tones", [training(steps=STEPS), MERGE]))
        wait_for("lora to run", lambda: state(tenant, "lora") == StageState.RUNNING, 120)
        before = {job["metadata"]["name"]: job["metadata"]["uid"] for job in tenant.jobs_of("tones")}
        plan = tenant.status("tones").plan

        newer = values(cluster, [tenant.namespace])
        newer["trainer"] |= {"scratchSize": "32Gi", "lightResources": {"cpu": "120m", "memory": "1100Mi"}}
        newer["operator"] |= {"workers": 3}
        release.apply(newer)
        status = tenant.succeeded("tones", seconds=400)

        assert status.plan == plan
        assert {stage.state for stage in status.stages} == {StageState.SUCCEEDED}
        assert {stage.attempts + stage.retries for stage in status.stages} == {1}
        assert tenant.stages_of_jobs("tones") == ["lora", "merge", "prepare", "publish"]
        after = {job["metadata"]["name"]: job for job in tenant.jobs_of("tones")}
        assert before.items() <= {name: job["metadata"]["uid"] for name, job in after.items()}.items()
        # What was planned is run as planned, by whatever operator; what is new holds for what is planned next.
        assert requests_of(after, "publish") == requests_of(after, "prepare") == {"cpu": "100m", "memory": "1Gi"}
        tenant.apply(tenant.job("next", [training(steps=5)]))
        jobs = wait_for("the next job to begin", lambda: tenant.jobs_of("next"), 60)
        assert requests_of({"next": jobs[0]}, "prepare") == {"cpu": "120m", "memory": "1100Mi"}


def state(tenant: Tenant, name: str) -> StageState | None:
    return next((stage.state for stage in tenant.status("tones").stages if stage.name == name), None)


def requests_of(jobs: dict[str, Body], stage: str) -> dict[str, str]:
    """What a stage's pod asks for."""
    (job,) = [job for job in jobs.values() if job["metadata"]["labels"]["finetune.dev/stage"] == stage]
    found: dict[str, str] = job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    return found
