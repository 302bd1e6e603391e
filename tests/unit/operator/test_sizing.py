"""Merge and build ask for what the model's size needs, where the job does not say."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import JobSpec
from finetune_api.outline import outline
from finetune_api.system import Resources
from finetune_operator.plan import stage_pod
from finetune_operator.settings import Settings
from finetune_operator.sizing import scratch_limit

PHI3_MINI = 7_642_181_888  # bytes of its two files in bfloat16
SEVENTY_BILLION = 141 * 10**9


def asked(size: int, *, precision: str = "int4", provider: str = "cpu", **spec: Any) -> dict[str, dict[str, Any]]:
    """Stage → its requests, for LoRA, merge and build of a model of `size` bytes."""
    content = {
        "inputModel": {"modelPath": "s3://bucket/model"},
        "dataConfigs": [{"name": "d", "loadDatasetConfig": {"dataFiles": ["s3://bucket/rows"]}}],
        "passes": [
            {"name": "lora", "type": "LoRA", "config": {"trainDataConfig": "d"}},
            {"name": "merge", "type": "MergeAdapterWeights"},
            {
                "name": "build",
                "type": "ModelBuilder",
                "config": {"precision": precision, "executionProvider": provider},
            },
        ],
        "storage": {"uri": "s3://bucket/out"},
    }
    parsed, settings = JobSpec.model_validate(content | spec), Settings()
    stages = {stage.name: stage_pod(parsed, stage, settings, None, size) for stage in outline(parsed)}
    return {name: dict(pod.resources.requests) for name, pod in stages.items()}


DEFAULT = {"cpu": "1", "memory": "4Gi"}


def test_a_small_model_asks_for_nothing_more() -> None:
    assert asked(10**8) == {"lora": DEFAULT, "merge": DEFAULT, "build": DEFAULT}


@pytest.mark.parametrize(
    ("precision", "provider", "memory", "disk"),
    [
        ("int4", "cpu", "27Gi", "19Gi"),
        ("int4", "cuda", "20Gi", "19Gi"),
        ("int8", "cpu", "27Gi", "20Gi"),
        ("fp32", "cpu", "27Gi", "26Gi"),
    ],
)
def test_building_asks_for_what_was_measured(precision: str, provider: str, memory: str, disk: str) -> None:
    """26 GiB for a CPU and 19 GiB for CUDA, at Phi-3-mini's shape."""
    found = asked(PHI3_MINI, precision=precision, provider=provider)
    assert found["build"] == {"cpu": "1", "memory": memory, "ephemeral-storage": disk}
    assert found["merge"] == DEFAULT | {"ephemeral-storage": "18Gi"}
    assert found["lora"] == DEFAULT


def test_what_the_job_says_stays() -> None:
    systems = [{"name": "big", "resources": {"requests": {"cpu": 2}, "limits": {"memory": "9Gi", "nvidia.com/gpu": 1}}}]
    found = asked(PHI3_MINI, systems=systems, engine={"host": "big"})
    assert found["build"] == {"cpu": 2, "ephemeral-storage": "19Gi"}
    systems[0]["resources"] = {"requests": {"cpu": 2, "ephemeral-storage": "1Ti"}}
    assert asked(PHI3_MINI, systems=systems, engine={"host": "big"})["build"] == {
        "cpu": 2,
        "memory": "27Gi",
        "ephemeral-storage": "1Ti",
    }


def test_a_queue_may_not_know_disks() -> None:
    assert asked(PHI3_MINI, queueName="team")["build"] == {"cpu": "1", "memory": "27Gi"}


def test_the_scratch_space_is_as_large_as_what_is_asked_for() -> None:
    merge = asked(SEVENTY_BILLION)["merge"]
    assert merge["ephemeral-storage"] == "329Gi"
    assert scratch_limit(Resources(requests=merge), "64Gi") == "329Gi"
    assert scratch_limit(Resources(requests=asked(PHI3_MINI)["merge"]), "64Gi") == "64Gi"
