"""Which change of status is told as which Event."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.status import Phase, StageState, StageStatus, Status
from finetune_operator.events import events

from ..api.specs import changed, job_spec
from .world import World


def stage(state: str, **more: Any) -> StageStatus:
    return StageStatus.model_validate({"name": "lora", "state": state, "key": "k", "job": "lora-1", **more})


def told(before: StageStatus | None, after: StageStatus) -> list[tuple[str, str, str]]:
    old = Status(stages=[before] if before else [])
    return [(item.type, item.reason, item.message) for item in events(old, Status(stages=[after]))]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, stage("Pending"), []),
        (stage("Pending"), stage("Running"), [("Normal", "StageStarted", "lora runs as Job lora-1.")]),
        (stage("Running"), stage("Running"), []),
        (stage("Running"), stage("Running", progress={"step": 3}), []),
        (stage("Running"), stage("Succeeded"), [("Normal", "StageSucceeded", "lora succeeded.")]),
        (
            stage("Running"),
            stage("Failed", reason="OutOfMemory", message="too big"),
            [("Warning", "OutOfMemory", "lora: too big"), ("Warning", "StageFailed", "lora: OutOfMemory: too big")],
        ),
        (
            stage("Running"),
            stage("Pending", job="lora-2", message="Attempt 2, after: x."),
            [("Warning", "StageRetried", "lora: Attempt 2, after: x.")],
        ),
        (None, stage("Reused", message="The store has it."), [("Normal", "StageReused", "lora: The store has it.")]),
        (
            None,
            stage("Queued", message="Waiting in queue team."),
            [("Normal", "Queued", "lora: Waiting in queue team.")],
        ),
        (
            stage("Running", runningSince="2026-11-23T20:00:00Z"),
            stage("Queued", message="Waiting in queue team: by x.", waitingSince="2026-11-23T21:00:00Z"),
            [("Warning", "Preempted", "lora: Waiting in queue team: by x. It goes on from its last checkpoint.")],
        ),
        (
            stage("Queued", runningSince="2026-11-23T20:00:00Z"),
            stage("Running"),
            [("Normal", "Resumed", "lora goes on as Job lora-1.")],
        ),
        # A failed attempt that waits for the next one was not preempted.
        (stage("Running"), stage("Pending", reason="Hardware"), []),
        (
            stage("Running"),
            stage("Failed", reason="DeadlineExceeded", message="too long"),
            [
                ("Warning", "DeadlineExceeded", "lora: too long"),
                ("Warning", "StageFailed", "lora: DeadlineExceeded: too long"),
            ],
        ),
        (
            stage("Running"),
            stage("Running", reason="NodeUnreachable", message="node a is silent"),
            [("Warning", "NodeUnreachable", "lora: node a is silent")],
        ),
        (
            stage("Running", reason="NodeUnreachable"),
            stage("Running", reason="NodeUnreachable", message="node a is silent"),
            [],
        ),
        # Of another key it is another stage.
        (stage("Succeeded"), stage("Succeeded", key="k2"), [("Normal", "StageSucceeded", "lora succeeded.")]),
    ],
)
def test_stages(before: StageStatus | None, after: StageStatus, expected: list[tuple[str, str, str]]) -> None:
    assert told(before, after) == expected


def test_a_whole_run_tells_each_change_once() -> None:
    world = World(job_spec())
    said: list[str] = []

    def act() -> None:
        before = Status.model_validate(world.status)
        outcome = world.step()
        assert outcome.status is not None
        said.extend(f"{item.reason} {item.message.split()[0].rstrip(':')}" for item in events(before, outcome.status))

    for _ in range(7):
        act()
        job = world.only()
        act()
        world.run_pod(job)
        act()
        world.complete(job)
    act()
    act()
    stages = ["prepare", "evaluate-input", "lora", "merge", "onnx", "evaluate-onnx", "publish"]
    expected = [f"{reason} {name}" for name in stages[1:-1] for reason in ("StageStarted", "StageSucceeded")]
    assert said == [*expected, "ArtifactsPublished adapter"]


def test_an_invalid_spec_and_a_suspended_job_are_told() -> None:
    world = World(job_spec())
    world.step()
    before = Status.model_validate(world.status)
    world.edit(changed(job_spec(), "engine.host", "gpu"))
    world.step()
    (event,) = events(before, Status.model_validate(world.status))
    assert (event.type, event.reason) == ("Warning", "SpecInvalid")
    assert "spec.engine.host" in event.message
    before = Status.model_validate(world.status)
    world.edit(changed(job_spec(), "suspend", True))
    world.step()
    (event,) = events(before, Status.model_validate(world.status))
    assert (event.reason, event.message) == ("Suspended", "Nothing runs until spec.suspend is false.")


def test_nothing_is_told_of_no_change() -> None:
    status = Status(phase=Phase.RUNNING, stages=[StageStatus(name="a", state=StageState.RUNNING)])
    assert events(status, status) == []
