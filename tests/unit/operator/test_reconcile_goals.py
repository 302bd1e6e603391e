"""Goals: what an evaluation is compared with, and what a missed goal does to the job."""

from __future__ import annotations

from finetune_api.stage import Artifact, ExitCode, Reason, StageResult

from ..api.specs import changed, job_spec
from .world import World

GOAL = {"type": "percent-max-degradation", "value": 10}
SPEC = changed(job_spec(), "evaluators[0].metrics[0].goal", GOAL)


def test_an_evaluation_is_given_the_input_models() -> None:
    world = World(SPEC)
    document = world.document(world.run_until("evaluate-onnx"))
    reference = document.inputs["reference"]
    assert (reference.stage, reference.digest) == ("evaluate-input", world.store[reference.key])


def test_a_missed_goal_fails_the_job_for_good_and_publishes_nothing() -> None:
    world = World(SPEC)
    job = world.run_until("evaluate-onnx")
    world.refuse(job, ExitCode.RESULT_REFUSED, Reason.GOAL_NOT_MET, "right is 0.5, wanted is at least 0.81")
    world.step()
    assert (world.status["phase"], world.condition("Succeeded")["reason"]) == ("Failed", "GoalNotMet")
    assert "right is 0.5, wanted is at least 0.81" in world.status["message"]
    assert not world.of_stage("publish")
    assert not world.status["artifacts"]
    world.pass_time(10_000)
    assert world.step().actions == []


def test_a_missed_goal_that_only_warns_is_said_and_the_models_are_published() -> None:
    world = World(changed(SPEC, "evaluators[0].onMissedGoal", "warn"))
    job = world.run_until("evaluate-onnx")
    said = world.answer(job).model_copy(update={"metrics": {"right": 0.5, "right/goal": 0.0}})
    assert isinstance(said, StageResult)
    world.complete(job, said)
    world.run_to_the_end()
    assert world.status["phase"] == "Succeeded"
    assert world.status["message"].endswith("Goals missed: right (evaluate-onnx).")
    assert world.status["artifacts"]


def test_a_plan_hands_what_auto_chooses_by_to_the_builder() -> None:
    world = World(changed(SPEC, "passes[2].config.int4AlgoConfig", "auto"))
    document = world.document(world.run_until("onnx"))
    assert document.evaluator is not None
    assert document.evaluator["metrics"][0]["goal"] == GOAL
    assert document.evaluator["validationSize"] == 0.5


def test_a_failed_stages_evidence_is_linked_where_its_attempt_left_some() -> None:
    for left in (True, False):
        world = World(SPEC)
        job = world.run_until("lora")
        key = world.document(job).key
        said = StageResult(key=key, ok=False, reason=Reason.MODEL_INVALID, message="no", evidence=left)
        world.fail(job, ExitCode.BAD_INPUT, said)
        world.step()
        assert world.status["phase"] == "Failed"
        expected = f"s3://out/jobs/failures/{key}/{job}" if left else None
        assert world.stage("lora").get("evidence") == expected


def test_publish_is_told_of_every_stage_and_its_report_is_an_artifact() -> None:
    world = World(SPEC)
    job = world.run_until("publish")
    document = world.document(job)
    assert [item.stage for item in document.stages] == ["evaluate-input", "lora", "merge", "onnx", "evaluate-onnx"]
    assert document.spec is not None
    said = world.answer(job)
    report = Artifact(name="report", stage="publish", key=document.key, digest="d" * 64, attempt=job, bytes=5)
    world.complete(job, said.model_copy(update={"published": [*said.published, report]}))
    world.step()
    (found,) = (item for item in world.status["artifacts"] if item["name"] == "report")
    assert found["uri"] == f"s3://out/jobs/stages/{document.key}/{job}"
    assert world.status["phase"] == "Succeeded"


def test_nothing_but_the_report_may_be_published_beside_what_was_asked_for() -> None:
    world = World(SPEC)
    job = world.run_until("publish")
    said = world.answer(job)
    other = Artifact(name="report", stage="publish", key="e" * 64, digest="d" * 64, attempt=job, bytes=5)
    world.complete(job, said.model_copy(update={"published": [*said.published, other]}))
    world.step()
    assert world.status["phase"] != "Succeeded"
