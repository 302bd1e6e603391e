"""Attempts that end badly: which are tried again, when, and what status says."""

from __future__ import annotations

import json

import pytest

from finetune_api.problems import problem
from finetune_api.stage import MAX_RESULT_BYTES, ExitCode, Reason, StageResult
from finetune_operator import labels
from finetune_operator.actions import Create

from ..api.specs import LORA, changed, job_spec, passes_only
from .world import World

FINAL = {
    ExitCode.BAD_INPUT: "Unsupported",
    ExitCode.RESULT_REFUSED: "OnnxDiverged",
    ExitCode.OUT_OF_MEMORY: "OutOfMemory",
}
COUNTED = {
    ExitCode.INTERNAL: "InternalError",
    ExitCode.HARDWARE: "Hardware",
    ExitCode.STALLED: "Stalled",
    ExitCode.INFRASTRUCTURE: "StoreUnavailable",
    1: "InternalError",
    139: "InternalError",
}
FREE = {ExitCode.TERMINATED: "Terminated", 137: "Terminated", 143: "Terminated"}


@pytest.mark.parametrize("gone", [False, True], ids=["pod there", "pod gone"])
@pytest.mark.parametrize(("code", "reason"), FINAL.items())
def test_a_final_failure_ends_the_run_at_once(code: int, reason: str, *, gone: bool) -> None:
    world = World(job_spec())
    world.fail(world.run_until("lora"), code, gone=gone)
    assert world.step().actions == []
    assert (world.status["phase"], world.stage("lora")["state"], world.stage("lora")["reason"]) == (
        "Failed",
        "Failed",
        reason,
    )
    assert world.condition("Succeeded")["reason"] == reason
    assert world.condition("Stalled")["status"] == "True"
    assert "change spec.runId" in world.status["message"]
    assert world.states()["evaluate-input"] == "Succeeded"
    assert not world.status["artifacts"]


@pytest.mark.parametrize("gone", [False, True], ids=["pod there", "pod gone"])
@pytest.mark.parametrize(("code", "reason"), COUNTED.items())
def test_a_counted_failure_is_tried_again_until_the_attempts_are_used_up(code: int, reason: str, *, gone: bool) -> None:
    world = World(changed(job_spec(), "maxAttempts", 2))
    first = world.run_until("lora")
    world.fail(first, code, gone=gone)
    world.pass_time(60)
    world.step()
    second = world.only()
    assert second != first
    stage = world.stage("lora")
    assert (stage["attempts"], stage["retries"], stage["job"], stage["reason"]) == (2, 0, second, reason)
    assert world.jobs[second]["metadata"]["labels"][labels.ATTEMPT] == "2"
    world.fail(second, code, gone=gone)
    world.pass_time(1000)
    assert world.step().actions == []
    assert world.status["phase"] == "Failed"
    assert world.stage("lora")["reason"] == reason
    assert world.stage("lora")["message"].endswith("(attempt 2 was the last)")


@pytest.mark.parametrize(("code", "reason"), FREE.items())
def test_an_ending_from_outside_costs_no_attempt(code: int, reason: str) -> None:
    world = World(changed(job_spec(), "maxAttempts", 1))
    job = world.run_until("lora")
    for retries in range(1, 5):
        world.fail(job, code)
        world.pass_time(60)
        world.step()
        job = world.only()
        stage = world.stage("lora")
        assert (stage["attempts"], stage["retries"], stage["reason"]) == (1, retries, reason)
        world.run_pod(job)
        world.step()
    assert world.run_to_the_end()[-1] == "publish"
    assert len(set(world.created)) == len(world.created)


def test_back_off_doubles_up_to_its_limit() -> None:
    world = World(changed(job_spec(), "maxAttempts", 9))
    job = world.run_until("lora")
    waits = []
    for _ in range(8):
        world.fail(job, ExitCode.HARDWARE)
        outcome = world.step()
        assert outcome.actions == []
        assert outcome.requeue is not None
        waits.append(outcome.requeue)
        assert "; tried again at 2026-11-23T" in world.stage("lora")["message"]
        world.pass_time(outcome.requeue - 1)
        assert world.step().actions == []
        world.pass_time(1)
        world.step()
        job = world.only()
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]


def test_endings_from_outside_wait_from_the_third_on() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    for _ in range(2):
        world.fail(job, ExitCode.TERMINATED)
        world.step()
        job = world.only()
    world.fail(job, ExitCode.TERMINATED)
    assert world.step().requeue == 10.0
    assert world.unfinished() == []


def test_raising_max_attempts_goes_on() -> None:
    world = World(changed(job_spec(), "maxAttempts", 1))
    world.fail(world.run_until("lora"), ExitCode.HARDWARE)
    world.step()
    assert world.status["phase"] == "Failed"
    plans = set(world.config_maps)
    world.edit(changed(world.spec, "maxAttempts", 2))
    world.pass_time(60)
    assert world.run_to_the_end()[0] == "lora"
    assert set(world.config_maps) == plans


def test_a_failed_job_that_is_deleted_stays_failed() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.fail(job, ExitCode.BAD_INPUT)
    world.step()
    world.delete(job)
    assert world.step().actions == []
    assert world.status["phase"] == "Failed"


def test_the_result_says_why_in_the_trainers_words() -> None:
    world = World(job_spec())
    world.step()
    job = world.only()
    found = problem("spec.dataConfigs[0]", "tone", "no such column", "There: <b>phrase</b>.\x1b[31m")
    said = StageResult(
        key=world.document(job).key, ok=False, reason=Reason.COLUMN_NOT_FOUND, message="columns", problems=[found]
    )
    world.fail(job, ExitCode.BAD_INPUT, said)
    world.step()
    assert world.stage("prepare")["reason"] == "ColumnNotFound"
    assert world.status["message"].startswith(
        "prepare: spec.dataConfigs[0] (tone): no such column. There: ‹b›phrase‹/b›. [31m"
    )
    assert world.created == [job]


def test_host_out_of_memory_is_read_from_the_container() -> None:
    world = World(job_spec())
    world.fail(world.run_until("lora"), 137, reason="OOMKilled")
    world.step()
    assert (world.status["phase"], world.stage("lora")["reason"]) == ("Failed", "OutOfMemory")
    assert "resources.limits.memory" in world.status["message"]


def test_a_deadline_is_final_whatever_the_pod_said_when_it_was_ended() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.fail(job, ExitCode.TERMINATED)
    world.end_job(job, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    world.step()
    assert (world.status["phase"], world.stage("lora")["reason"]) == ("Failed", "JobDeadlineExceeded")


def test_a_pod_that_was_taken_away_costs_no_attempt() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    del world.pods[job]
    world.end_job(job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    world.step()
    assert (world.stage("lora")["attempts"], world.stage("lora")["retries"]) == (1, 1)


# --- lost results


@pytest.mark.parametrize(
    "said",
    [
        "",
        "garbage",
        "{}",
        json.dumps({"key": "f" * 64, "ok": True, "digest": "a" * 64}),
        "another",
        "no digest",
        "too long",
        '"\ud800"',
        "[" * 3000,
    ],
)
def test_a_result_that_is_none_is_asked_of_the_store_and_never_of_a_gpu(said: str) -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    good = world.answer(job)
    odd = {
        "another": good.model_copy(update={"key": "f" * 64}).model_dump_json(exclude_none=True),
        "no digest": good.model_copy(update={"digest": None}).model_dump_json(exclude_none=True),
        "too long": good.model_dump_json(exclude_none=True) + " " * MAX_RESULT_BYTES,
    }
    world.complete(job, odd.get(said, said))
    assert world.finish_one() == "probe-lora"
    assert world.finish_one() == "merge"
    assert world.of_stage("lora") == [job]
    stage = world.stage("lora")
    assert (stage["state"], stage["digest"], stage["attempts"]) == ("Succeeded", good.digest, 1)
    assert "reason" not in stage
    world.run_to_the_end()
    assert world.status["phase"] == "Succeeded"


def test_a_lost_pod_is_a_lost_result() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.complete(job, lost=True)
    world.step()
    assert (world.stage("lora")["state"], world.stage("lora")["reason"]) == ("Pending", "ResultLost")
    probe = world.only()
    assert world.document(probe).type == "Probe"
    limits = world.jobs[probe]["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert "nvidia.com/gpu" not in json.dumps(limits)


def test_what_was_not_published_is_made_again_and_asked_for_again() -> None:
    world = World(job_spec())
    first = world.run_until("lora")
    world.complete(first, "")
    assert world.finish_one() == "probe-lora"
    world.step()
    second = world.only()
    assert world.of_stage("lora") == [first, second]
    assert world.stage("lora")["attempts"] == 2
    # The second one's result is lost too, but it did publish: what the first probe said is not about it.
    world.complete(second, world.answer(second), lost=True)
    assert world.finish_one() == "probe-lora"
    assert world.finish_one() == "merge"
    assert world.of_stage("lora") == [first, second]


def test_the_probes_answer_is_readable_without_its_pod() -> None:
    world = World(job_spec())
    first = world.run_until("lora")
    world.complete(first, "")
    world.step()
    world.fail(world.only(), ExitCode.RESULT_REFUSED, gone=True)
    world.step()
    assert len(world.of_stage("lora")) == 2


def test_a_probe_that_cannot_ask_starts_no_gpu_job() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.complete(job, "")
    world.step()
    world.refuse(world.only(), ExitCode.BAD_INPUT, Reason.ACCESS_DENIED, "the key is refused")
    assert world.step().actions == []
    assert world.of_stage("lora") == [job]
    assert (world.status["phase"], world.stage("lora")["reason"]) == ("Failed", "AccessDenied")
    assert "the key is refused" in world.status["message"]


def test_a_probe_whose_result_is_lost_asks_again() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.complete(job, lost=True)
    world.step()
    world.complete(world.only(), "")
    assert world.finish_one() == "probe-lora"
    assert world.finish_one() == "merge"
    assert world.of_stage("lora") == [job]


def test_a_stage_that_never_leaves_a_result_ends() -> None:
    world = World(changed(job_spec(), "maxAttempts", 2))
    for _ in range(2):
        world.complete(world.run_until("lora"), "")
        assert world.finish_one() == "probe-lora"
    assert world.step().actions == []
    assert (world.status["phase"], world.stage("lora")["reason"]) == ("Failed", "ResultLost")
    assert len(world.of_stage("lora")) == 2


@pytest.mark.parametrize("stage", ["prepare", "publish"])
def test_what_is_light_is_done_again_where_its_result_is_lost(stage: str) -> None:
    world = World(changed(job_spec(), "maxAttempts", 2))
    first = world.run_until(stage)
    world.complete(first, lost=True)
    world.step()
    assert world.of_stage(stage) == [first, world.only()]
    assert world.run_to_the_end()[0] == stage
    assert world.status["phase"] == "Succeeded"


def test_a_prepare_that_never_says_anything_ends() -> None:
    world = World(passes_only(LORA))
    for _ in range(3):
        world.step()
        world.complete(world.only(), "")
    world.step()
    assert (world.status["phase"], world.stage("prepare")["reason"]) == ("Failed", "ResultLost")


def test_a_prepare_that_pins_too_little_is_no_prepare() -> None:
    world = World(job_spec())
    world.step()
    job = world.only()
    answer = world.answer(job)
    assert answer.prepared is not None
    pins = answer.prepared.pins.model_copy(update={"data": {}})
    world.complete(job, answer.model_copy(update={"prepared": answer.prepared.model_copy(update={"pins": pins})}))
    world.step()
    assert world.config_maps == {}
    assert len(world.of_stage("prepare")) == 2


def test_a_publish_that_names_other_artifacts_is_no_publish() -> None:
    world = World(job_spec())
    job = world.run_until("publish")
    answer = world.answer(job)
    other = [item.model_copy(update={"digest": "f" * 64}) for item in answer.published]
    world.complete(job, answer.model_copy(update={"published": other}))
    world.step()
    assert not world.status["artifacts"]
    assert len(world.of_stage("publish")) == 2


def test_an_ended_job_waits_a_little_for_its_pods_end() -> None:
    """The Job's watch may be ahead of the pods'."""
    world = World(job_spec())
    job = world.run_until("lora")
    running = world.pods[job]
    world.complete(job)
    ended, world.pods[job] = world.pods[job], running
    outcome = world.step()
    assert (outcome.actions, outcome.requeue, world.stage("lora")["state"]) == ([], 1.0, "Running")
    world.pods[job] = ended
    world.step()
    assert world.stage("lora")["state"] == "Succeeded"


def test_an_ended_job_does_not_wait_for_ever() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    running = world.pods[job]
    world.complete(job)
    world.pods[job] = running
    world.pass_time(31)
    (action,) = world.step().actions
    assert isinstance(action, Create)
    assert action.manifest["metadata"]["labels"][labels.STAGE] == "probe-lora"
