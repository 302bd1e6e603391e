"""The spec changes under a run, a run is held up and let go, and the world is not as the operator left it."""

from __future__ import annotations

import pytest

from finetune_api.stage import ExitCode, StageResult
from finetune_operator.actions import Outcome, Stop

from ..api.specs import changed, job_spec
from .world import World


def stops(outcome: Outcome) -> list[str]:
    return [action.attempt.name for action in outcome.actions if isinstance(action, Stop)]


# --- suspend and resume


def test_suspending_stops_what_runs_and_resuming_is_a_new_try_that_costs_nothing() -> None:
    world = World(job_spec())
    first = world.run_until("lora")
    world.edit(changed(world.spec, "suspend", True))
    outcome = world.step()
    assert stops(outcome) == [first] == [action.attempt.name for action in outcome.actions]  # type: ignore[union-attr]
    assert (world.status["phase"], world.stage("lora")["state"]) == ("Suspended", "Suspended")
    assert world.condition("Suspended")["status"] == "True"
    assert world.states()["evaluate-input"] == "Succeeded"
    assert world.step().actions == []
    world.collect()
    assert world.step().actions == []
    world.edit(changed(world.spec, "suspend", False))
    world.step()
    second = world.only()
    assert second != first
    stage = world.stage("lora")
    assert (stage["attempts"], stage["retries"], stage["job"]) == (1, 1, second)
    assert world.run_to_the_end() == ["lora", "merge", "onnx", "evaluate-onnx", "publish"]
    assert len(world.config_maps) == 1


def test_resuming_waits_until_the_last_attempt_is_gone() -> None:
    world = World(job_spec())
    first = world.run_until("lora")
    world.edit(changed(world.spec, "suspend", True))
    world.step()
    world.edit(changed(world.spec, "suspend", False))
    assert world.step().actions == []
    assert world.stage("lora")["reason"] == "Stopping"
    world.delete(first)
    world.step()
    assert world.only() != first


def test_a_job_may_be_born_suspended() -> None:
    world = World(changed(job_spec(), "suspend", True))
    assert world.step().actions == []
    assert world.status["phase"] == "Suspended"
    world.edit(changed(world.spec, "suspend", False))
    assert world.run_to_the_end()[-1] == "publish"


def test_a_finished_job_has_nothing_to_suspend() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    artifacts = world.status["artifacts"]
    world.edit(changed(world.spec, "suspend", True))
    assert world.step().actions == []
    assert (world.status["phase"], world.status["artifacts"]) == ("Succeeded", artifacts)
    assert world.status["observedGeneration"] == 2


# --- edits


def test_an_edit_of_the_builder_lets_training_go_on() -> None:
    world = World(job_spec())
    training = world.run_until("lora")
    pins = world.status["pins"]
    world.edit(changed(world.spec, "passes[2].config.int4BlockSize", 64))
    outcome = world.step()
    assert stops(outcome) == []
    prepare = next(job for job in world.unfinished() if job != training)
    document = world.document(prepare)
    assert (document.type, document.job.generation) == ("Prepare", 2)
    assert document.pins is not None
    assert document.pins.wire() == pins
    # What the model is, is asked of nobody again: a new base in the store does not matter.
    world.model_digest = "b" * 64
    world.step()
    world.complete(prepare)
    world.step()
    assert world.only() == training
    assert (world.status["pins"], len(world.config_maps)) == (pins, 2)
    assert world.stage("lora")["attempts"] == 1
    assert world.states()["evaluate-input"] == "Reused"
    assert world.run_to_the_end() == ["lora", "merge", "onnx", "evaluate-onnx", "publish"]
    assert world.of_stage("lora") == [training]


def test_an_edit_that_needs_more_data_keeps_what_is_pinned() -> None:
    spec = job_spec()
    del spec["engine"]
    world = World(spec)
    training = world.run_until("lora")
    world.edit(changed(world.spec, "engine.evaluator", "tones"))
    assert stops(world.step()) == []
    prepare = next(job for job in world.unfinished() if job != training)
    world.complete(prepare, _with_more_pins(world, prepare))
    assert stops(world.step()) == [], "training goes on while the new stage before it catches up"
    assert set(world.status["pins"]["data"]) == {"train", "held-out"}
    (evaluation,) = set(world.unfinished()) - {training}
    assert world.of_stage("evaluate-input") == [evaluation]
    world.complete(evaluation)
    world.step()
    assert world.stage("lora")["state"] == "Running"
    assert world.run_to_the_end() == ["lora", "merge", "onnx", "evaluate-onnx", "publish"]


def _with_more_pins(world: World, prepare: str) -> StageResult:
    """What the trainer says: the pins it was given, completed by what they lack."""
    document = world.document(prepare)
    assert document.pins is not None
    answer = world.prepared(document.model_copy(update={"pins": None}))
    assert document.pins.data.items() <= answer.pins.data.items()
    return StageResult(key=document.key, ok=True, prepared=answer)


def test_an_edit_of_the_data_drops_the_pins_and_stops_what_runs() -> None:
    world = World(job_spec())
    training = world.run_until("lora")
    world.edit(changed(world.spec, "dataConfigs[0].preProcessDataConfig.maxSeqLen", 64))
    assert stops(world.step()) == [training]
    prepare = world.only()
    assert world.document(prepare).pins is None
    world.model_digest = "b" * 64
    world.collect()
    ran = world.run_to_the_end()
    assert ran == ["prepare", "evaluate-input", "lora", "merge", "onnx", "evaluate-onnx", "publish"]
    assert world.status["pins"]["model"]["digest"] == "b" * 64


def test_more_memory_after_an_oom_runs_the_stage_again() -> None:
    spec = changed(
        job_spec(systems=[{"name": "cpu", "resources": {"limits": {"memory": "1Gi"}}}]), "engine.host", "cpu"
    )
    world = World(spec)
    world.fail(world.run_until("lora"), ExitCode.OUT_OF_MEMORY)
    world.step()
    world.edit(changed(world.spec, "systems[0].resources.limits.memory", "2Gi"))
    assert world.run_to_the_end() == ["prepare", "lora", "merge", "onnx", "evaluate-onnx", "publish"]
    assert world.states()["evaluate-input"] == "Reused"
    assert world.stage("lora")["attempts"] == 1


def test_an_edit_taken_back_before_it_was_planned_changes_nothing() -> None:
    world = World(job_spec())
    training = world.run_until("lora")
    before = world.spec
    world.edit(changed(before, "passes[2].config.int4BlockSize", 64))
    world.step()
    prepare = next(job for job in world.unfinished() if job != training)
    world.edit(before)
    assert stops(world.step()) == [prepare]
    assert world.only() == training
    world.collect()
    assert world.run_to_the_end() == ["lora", "merge", "onnx", "evaluate-onnx", "publish"]
    assert len(world.config_maps) == 1


def test_an_edit_of_a_finished_job_taken_back_publishes_nothing_twice() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    before, artifacts = world.spec, world.status["artifacts"]
    world.edit(changed(before, "passes[2].config.int4BlockSize", 64))
    world.step()
    assert not world.status["artifacts"]
    world.edit(before)
    world.step()
    assert (world.status["phase"], world.status["artifacts"]) == ("Succeeded", artifacts)
    assert len(world.of_stage("publish")) == 1


def test_an_edited_finished_job_runs_only_what_changed() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    world.edit(changed(world.spec, "passes[2].config.int4BlockSize", 64))
    assert world.run_to_the_end() == ["prepare", "onnx", "evaluate-onnx", "publish"]
    assert world.states()["lora"] == "Reused"
    assert {item["name"] for item in world.status["artifacts"]} == {"adapter", "model", "onnx"}


def test_a_new_run_id_resolves_anew() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    world.edit(changed(world.spec, "runId", "again"))
    assert world.run_to_the_end() == ["prepare", "publish"], "nothing floated away, so nothing is computed again"
    world.model_digest = "b" * 64
    world.edit(changed(world.spec, "runId", "and again"))
    ran = world.run_to_the_end()
    assert ran == ["prepare", "evaluate-input", "lora", "merge", "onnx", "evaluate-onnx", "publish"]


def test_a_new_run_id_tries_a_failed_stage_again() -> None:
    world = World(job_spec())
    world.fail(world.run_until("lora"), ExitCode.BAD_INPUT)
    world.step()
    world.edit(changed(world.spec, "runId", "again"))
    assert world.run_to_the_end()[:2] == ["prepare", "lora"]


@pytest.mark.parametrize("field", ["maxAttempts", "queueName"])
def test_operational_fields_plan_nothing_anew(field: str) -> None:
    world = World(job_spec())
    training = world.run_until("lora")
    world.edit(changed(world.spec, field, {"maxAttempts": 9, "queueName": "team"}[field]))
    assert world.step().actions == []
    assert world.only() == training
    assert len(world.config_maps) == 1


def test_an_upgraded_operator_goes_on_with_the_plan_that_holds() -> None:
    world = World(job_spec())
    training = world.run_until("lora")
    world.upgrade(trainer_image="trainer:2", light_image="light:2", default_memory="9Gi", light_cpu="2")
    assert world.step().actions == []
    assert world.only() == training
    world.run_to_the_end()
    images = {job["spec"]["template"]["spec"]["containers"][0]["image"] for job in world.jobs.values()}
    assert images == {"trainer:1", "trainer-light:1"}
    assert len(world.config_maps) == 1
