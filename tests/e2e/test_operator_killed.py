"""The operator is killed in the middle of every stage; the run ends as if nothing had been."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from finetune_api.status import StageState, Status

from .api import wait_for
from .jobs import BUILD, MERGE, Tenant, training
from .places import Operator

pytestmark = pytest.mark.owns_operator

STAGES = ["prepare", "lora", "merge", "builder", "publish"]
# How long nobody looks after the job; short stages end meanwhile.
AWAY_SECONDS = 1.0
TELLING = ("README.md", "training_log.jsonl")


def files_of(tenant: Tenant, status: Status) -> dict[str, dict[str, str]]:
    """By artifact, every file's sha256 but for those that tell of the run: its names and times."""
    return {
        item.name: {file.path: file.sha256 for file in tenant.manifest(item).files if file.path not in TELLING}
        for item in status.artifacts
        if item.name != "report"
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_in_every_stage_it_ends_in_the_same_artifacts(
    new_tenant: Callable[[], Tenant], operator: Operator
) -> None:
    passes = [training(steps=10), MERGE, BUILD]
    tenant, undisturbed = new_tenant(), new_tenant()
    name = tenant.apply(tenant.job("killed", passes))
    for stage in STAGES:
        wait_for(f"a pod of {stage}", lambda stage=stage: _has_pod(tenant, name, stage), 60)
        operator.kill()
        time.sleep(AWAY_SECONDS)
        operator.start()
    status = tenant.succeeded(name)

    assert tenant.stages_of_jobs(name) == sorted(STAGES)
    assert {stage.state for stage in status.stages} == {StageState.SUCCEEDED}
    assert {stage.attempts + stage.retries for stage in status.stages} == {1}
    _one_pod_each(tenant, name)

    calm = undisturbed.succeeded(undisturbed.apply(undisturbed.job("calm", passes)))
    assert {stage.state for stage in calm.stages} == {StageState.SUCCEEDED}
    assert files_of(undisturbed, calm) == files_of(tenant, status)


def _has_pod(tenant: Tenant, name: str, stage: str) -> bool:
    return any(pod["metadata"]["labels"]["finetune.dev/stage"] == stage for pod in tenant.pods_of(name))


def _one_pod_each(tenant: Tenant, name: str) -> None:
    stages = [pod["metadata"]["labels"]["finetune.dev/stage"] for pod in tenant.pods_of(name)]
    assert sorted(stages) == sorted(STAGES), json.dumps(stages)
