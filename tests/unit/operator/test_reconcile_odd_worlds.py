"""A world that is not as the operator left it: deletions by hand, foreign writes, a crash at any instant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.stage import ExitCode

from ..api.specs import job_spec
from .world import World


def test_a_job_deleted_by_hand_is_tried_again_at_no_cost() -> None:
    world = World(job_spec())
    first = world.run_until("lora")
    world.delete(first)
    world.step()
    second = world.only()
    stage = world.stage("lora")
    assert second != first
    assert (stage["attempts"], stage["retries"]) == (1, 1)


def test_a_plan_that_is_gone_is_made_again() -> None:
    world = World(job_spec())
    training = world.run_until("lora")
    plans = dict(world.config_maps)
    world.config_maps.clear()
    world.step()
    assert world.config_maps == plans
    assert world.only() == training
    world.config_maps.clear()
    for prepare in world.of_stage("prepare"):
        world.delete(prepare)
    world.step()
    assert world.of_stage("prepare"), "without its result, it is prepared again"


@pytest.mark.parametrize(
    "garbage",
    [
        {"phase": "Dancing"},
        {"stages": [{"name": "lora"}]},
        {"stages": "many"},
        {"conditions": [{"type": "Ready"}]},
        {"unknown": 1},
        {"plan": {"name": "phi3-plan-000000000000", "generation": 1}},
        {"phase": "Succeeded"},
    ],
)
def test_a_status_that_somebody_else_wrote_is_corrected(garbage: dict[str, Any]) -> None:
    world = World(job_spec())
    world.run_until("lora")
    world.status = garbage
    world.step()
    assert world.status["phase"] == "Running"
    assert world.stage("lora")["state"] == "Running"
    assert len(world.created) == 3, "what runs and what is done is found again by its Jobs"
    world.run_to_the_end()
    assert world.status["phase"] == "Succeeded"


def test_a_job_with_our_labels_and_another_owner_is_nobodys_attempt() -> None:
    world = World(job_spec())
    world.step()
    job = world.only()
    foreign = json.loads(json.dumps(world.jobs[job]))
    foreign["metadata"] |= {"uid": "foreign", "name": "foreign"}
    foreign["metadata"]["ownerReferences"][0]["uid"] = "somebody else's"
    foreign["metadata"]["labels"]["finetune.dev/try"] = "9"
    world.jobs["foreign"] = foreign
    world.fail("foreign", ExitCode.BAD_INPUT)
    assert world.step().actions == []
    assert world.status["phase"] == "Pending"
    ownerless = json.loads(json.dumps(foreign))
    del ownerless["metadata"]["ownerReferences"]
    world.jobs = {"ownerless": ownerless, job: world.jobs[job]}
    world.step()
    assert world.status["phase"] == "Pending"


def test_a_job_recreated_under_its_name_starts_anew() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    again = World(job_spec())
    again.uid = "another-uid"
    again.step()
    assert not set(again.jobs) & set(world.jobs)


def test_an_operator_that_died_after_creating_finds_the_same_job() -> None:
    world = World(job_spec())
    for _ in range(7):
        world.step(write_status=False)
        world.step()
        job = world.only()
        world.run_pod(job)
        world.step(write_status=False)
        world.complete(job)
        world.step(write_status=False)
        if world.unfinished():
            assert len(world.unfinished()) == 1
    world.step()
    assert world.status["phase"] == "Succeeded"
    assert len(world.created) == 7
