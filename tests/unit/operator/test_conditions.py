"""Times and words of conditions, and what the API server's refusal makes of a status."""

from __future__ import annotations

import pytest

from finetune_api.status import Status
from finetune_operator import labels
from finetune_operator.actions import Create
from finetune_operator.conditions import blocked

from ..api.specs import changed, job_spec
from .world import World


def test_a_conditions_time_is_that_of_its_last_change() -> None:
    world = World(job_spec())
    world.step()
    begin = world.condition("SpecValid")["lastTransitionTime"]
    world.pass_time(100)
    world.run_to_the_end()
    assert world.condition("SpecValid")["lastTransitionTime"] == begin
    assert world.condition("Succeeded")["lastTransitionTime"] > begin
    assert world.status["startedAt"] == begin
    finished = world.status["finishedAt"]
    world.pass_time(100)
    world.edit(changed(job_spec(), "passes[2].config.int4BlockSize", 64))
    world.step()
    assert "finishedAt" not in world.status
    assert world.status["startedAt"] > finished
    assert world.condition("Reconciling")["observedGeneration"] == 2


@pytest.mark.parametrize("message", ['exceeded quota: "gpus"', "x" * 10_000, "\x1b<b>" * 5000])
@pytest.mark.parametrize("stage", ["prepare", ""])
def test_a_refusal_is_said_and_fits(message: str, stage: str) -> None:
    world = World(job_spec())
    world.step()
    status = blocked(Status.model_validate(world.status), Status(), [stage], message)
    world.write(status.wire())
    assert world.condition("Succeeded")["reason"] == "CreateRefused"
    assert world.status["message"].startswith(f"{stage or 'plan'}: the API server refused it: ")
    assert (world.stage("prepare")["reason"] == "CreateRefused") == bool(stage)


@pytest.mark.parametrize("tries", [0, 1])
def test_a_job_that_was_refused_is_asked_for_again_by_the_same_name(tries: int) -> None:
    world = World(changed(job_spec(), "maxAttempts", 9))
    job = world.run_until("lora")
    if tries == 0:
        world = World(job_spec())
    else:
        world.delete(job)
    for _ in range(3):
        outcome = world.decide()
        (refused,) = [action.manifest["metadata"] for action in outcome.actions if isinstance(action, Create)]
        assert outcome.status is not None
        status = blocked(
            outcome.status, Status.model_validate(world.status), [refused["labels"][labels.STAGE]], "quota"
        )
        world.write(status.wire())
        world.pass_time(10)
    world.step()
    assert world.only() == refused["name"]
    assert world.status["stages"][2 if tries else 0]["retries"] == tries


def test_a_plan_that_was_refused_is_not_named() -> None:
    world = World(job_spec())
    world.step()
    world.complete(world.only())
    outcome = world.decide()
    assert outcome.status is not None
    world.write(blocked(outcome.status, Status.model_validate(world.status), ["", "evaluate-input"], "quota").wire())
    assert "plan" not in world.status
    assert world.stage("evaluate-input")["attempts"] == 0
    world.run_to_the_end()
    assert world.status["phase"] == "Succeeded"
    assert world.stage("evaluate-input")["retries"] == 0
