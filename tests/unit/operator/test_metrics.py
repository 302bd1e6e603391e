"""What is counted is what happened, and nothing is counted for jobs that are gone."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.status import StageStatus, Status
from finetune_operator.metrics import Metrics


def stage(state: str, **more: Any) -> StageStatus:
    return StageStatus.model_validate(
        {"name": "lora", "type": "LoRA", "state": state, "key": "k", "job": "lora-1", "attempts": 1, **more}
    )


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def changed(metrics: Metrics, before: StageStatus | None, after: StageStatus, **created: str) -> None:
    old = Status(stages=[before] if before else [])
    metrics.status_changed(old, Status(stages=[after]), {"lora-1": "2026-11-23T20:00:00Z", **created})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(queue_depth=lambda: 3.0)


def test_attempts_are_counted_by_how_they_ended(metrics: Metrics) -> None:
    running = stage("Running")
    again = stage("Pending", job="lora-2", retries=1, reason="Terminated")
    changed(metrics, running, again)
    changed(metrics, again, stage("Running", job="lora-2", retries=1))
    changed(metrics, stage("Running", job="lora-2", retries=1), stage("Succeeded", job="lora-2", retries=1))
    changed(metrics, running, stage("Failed", reason="OutOfMemory"))
    for reason, number in (("Terminated", 1.0), ("Succeeded", 1.0), ("OutOfMemory", 1.0), ("Hardware", None)):
        assert value(metrics, "finetune_stage_attempts_total", reason=reason) == number


def test_a_stage_takes_from_its_first_attempt_to_its_end(metrics: Metrics) -> None:
    ended = stage("Succeeded", started_at="2026-11-23T20:00:00Z", finished_at="2026-11-23T20:01:40Z")
    changed(metrics, stage("Running"), ended)
    changed(metrics, ended, ended)
    labels = {"type": "LoRA", "outcome": "Succeeded"}
    assert value(metrics, "finetune_stage_duration_seconds_sum", **labels) == 100.0
    assert value(metrics, "finetune_stage_duration_seconds_count", **labels) == 1.0


def test_a_wait_is_counted_once_for_each_attempt_that_runs(metrics: Metrics) -> None:
    for before, after in (
        (None, stage("Queued")),
        (stage("Queued"), stage("Running")),
        (stage("Running"), stage("Running", progress={"step": 1})),
    ):
        changed(metrics, before, after)
    assert value(metrics, "finetune_stage_wait_seconds_count", type="LoRA") == 1.0
    changed(metrics, stage("Running"), stage("Running", job="lora-2"))
    assert value(metrics, "finetune_stage_wait_seconds_count", type="LoRA") == 1.0, "of lora-2 nothing is known"
    assert (value(metrics, "finetune_stage_wait_seconds_sum", type="LoRA") or 0.0) > 0.0


def test_another_key_is_another_stage(metrics: Metrics) -> None:
    changed(metrics, stage("Succeeded"), stage("Succeeded", key="k2"))
    assert value(metrics, "finetune_stage_attempts_total", reason="Succeeded") == 1.0


def test_the_series_of_a_namespace_go_with_its_last_job(metrics: Metrics) -> None:
    jobs = [("a", "Running"), ("a", "Running"), ("b", "Pending")]
    metrics.watch_jobs(lambda: jobs)
    metrics.gpus_held("a", 4.0, 10.0)
    metrics.gpus_held("a", 4.0, 5.0)
    metrics.gpus_held("b", 0.0, 10.0)
    assert value(metrics, "finetune_jobs", namespace="a", phase="Running") == 2.0
    assert value(metrics, "finetune_gpu_seconds_total", namespace="a") == 60.0
    assert value(metrics, "finetune_gpu_seconds_total", namespace="b") is None
    del jobs[:2]
    assert value(metrics, "finetune_jobs", namespace="a", phase="Running") is None
    assert value(metrics, "finetune_gpu_seconds_total", namespace="a") is None
    assert value(metrics, "finetune_jobs", namespace="b", phase="Pending") == 1.0


def test_requests_and_the_queue(metrics: Metrics) -> None:
    metrics.request("PATCH", 409)
    metrics.request("PATCH", 409)
    assert value(metrics, "finetune_api_requests_total", verb="PATCH", code="409") == 2.0
    assert value(metrics, "finetune_queue_depth") == 3.0
