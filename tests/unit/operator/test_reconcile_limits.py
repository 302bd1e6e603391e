"""Time that a run may take and wait, and what is cleared away after it."""

from __future__ import annotations

import pytest

from finetune_api.stage import ExitCode
from finetune_operator.actions import Stop

from ..api.specs import LORA, changed, job_spec, passes_only
from .world import World


def with_limits(**limits: int) -> World:
    return World({**passes_only(LORA), **limits})


def reason(world: World) -> tuple[str, str | None]:
    return world.status["phase"], world.condition("Succeeded")["reason"]


def test_running_time_is_limited_to_the_second() -> None:
    world = with_limits(activeDeadlineSeconds=100)
    job = world.run_until("lora")
    prepared = world.stage("prepare")
    assert prepared["runningSince"] == prepared["runningUntil"]
    world.pass_time(60.5)
    outcome = world.step()
    assert outcome.requeue == pytest.approx(39.5)
    world.pass_time(39.4)
    assert world.step().actions == []
    assert world.stage("lora")["state"] == "Running"
    world.pass_time(0.1)
    (action,) = world.step().actions
    assert isinstance(action, Stop)
    assert action.attempt.name == job
    assert reason(world) == ("Failed", "DeadlineExceeded")
    assert "activeDeadlineSeconds; raise it to go on" in world.status["message"]
    world.collect()
    world.pass_time(1000)
    assert world.step().actions == []
    assert reason(world) == ("Failed", "DeadlineExceeded")


def test_time_of_all_attempts_counts_and_waiting_does_not() -> None:
    world = with_limits(activeDeadlineSeconds=100)
    job = world.run_until("lora")
    world.pass_time(40)
    world.fail(job, ExitCode.INFRASTRUCTURE, gone=True)
    world.step()
    world.restart()
    world.pass_time(1000)
    world.step()
    second = world.only()
    world.pass_time(1000)
    world.step()
    world.run_pod(second)
    world.step()
    # A pod that is evicted and made again within its Job: both count.
    world.pass_time(30)
    world.pods.pop(second)
    world.step()
    world.pass_time(1000)
    world.run_pod(second)
    world.step()
    stage = world.stage("lora")
    assert (stage["ranSeconds"], "runningUntil" in stage) == (70, False)
    world.pass_time(29)
    assert world.step().requeue == 1
    world.pass_time(1)
    world.step()
    assert reason(world) == ("Failed", "DeadlineExceeded")


def test_stages_share_the_deadline() -> None:
    world = with_limits(activeDeadlineSeconds=100)
    world.step()
    world.run_pod(world.only())
    world.step()
    world.pass_time(70)
    world.complete(world.only())
    world.run_until("lora")
    assert world.step().requeue == 30


@pytest.mark.parametrize("collected", [False, True])
def test_a_raised_deadline_goes_on_at_no_cost(*, collected: bool) -> None:
    world = with_limits(activeDeadlineSeconds=100, maxAttempts=1)
    first = world.run_until("lora")
    world.pass_time(100)
    world.step()
    if collected:
        world.collect()
        world.step()
    world.pass_time(5000)
    world.edit(changed(world.spec, "activeDeadlineSeconds", 200))
    world.step()
    world.collect()
    world.step()
    second = world.only()
    stage = world.stage("lora")
    assert second != first
    assert (stage["attempts"], stage["retries"], stage["state"]) == (1, 1, "Pending")
    world.run_pod(second)
    assert world.step().requeue == 100
    world.complete(second)
    assert world.run_to_the_end() == ["publish"]
    assert reason(world)[0] == "Succeeded"


def test_suspended_time_does_not_count() -> None:
    world = with_limits(activeDeadlineSeconds=100)
    world.run_until("lora")
    world.pass_time(60)
    world.edit(changed(world.spec, "suspend", True))
    world.step()
    world.collect()
    world.pass_time(1000)
    world.edit(changed(world.spec, "suspend", False))
    world.step()
    world.run_pod(world.only())
    assert world.step().requeue == 40


def test_a_deadline_that_has_passed_starts_nothing() -> None:
    world = with_limits(activeDeadlineSeconds=100)
    job = world.run_until("lora")
    world.pass_time(100)
    world.complete(job)
    assert world.step().actions == []
    assert reason(world) == ("Failed", "DeadlineExceeded")
    assert world.states()["lora"] == "Succeeded"
    assert world.stage("publish")["attempts"] == 0
    world.edit(changed(world.spec, "activeDeadlineSeconds", None))
    assert world.run_to_the_end() == ["publish"]


def test_a_stage_waits_for_its_pod_only_so_long() -> None:
    world = with_limits(maxQueueSeconds=300)
    world.step()
    world.unschedulable(world.only())
    world.pass_time(100)
    assert world.step().requeue == 200
    world.restart()
    world.pass_time(200)
    (action,) = world.step().actions
    assert isinstance(action, Stop)
    assert reason(world) == ("Failed", "QueueTimeout")
    assert "Insufficient nvidia.com/gpu" in world.status["message"]
    world.collect()
    world.pass_time(1000)
    assert world.step().actions == []
    assert reason(world) == ("Failed", "QueueTimeout")
    world.edit(changed(world.spec, "maxQueueSeconds", 301))
    assert world.run_to_the_end()[-1] == "publish"


def test_waiting_again_after_a_preemption_starts_anew() -> None:
    world = with_limits(maxQueueSeconds=300, queueName="team")
    job = world.run_until("lora")
    world.pass_time(5000)
    world.step()
    world.requeue(job)
    assert world.step().requeue == 300
    assert world.status["phase"] == "Queued"
    world.pass_time(300)
    world.step()
    assert reason(world) == ("Failed", "QueueTimeout")


def test_a_job_that_is_refused_waits_too() -> None:
    from finetune_api.status import Status
    from finetune_operator.conditions import blocked

    world = with_limits(maxQueueSeconds=25)
    for _ in range(3):
        outcome = world.decide()
        assert outcome.actions
        assert outcome.status is not None
        world.write(blocked(outcome.status, Status.model_validate(world.status), ["prepare"], "quota").wire())
        world.pass_time(10)
    assert world.step().actions == []
    assert reason(world) == ("Failed", "QueueTimeout")
    assert "quota" not in world.status["message"]


# --- ttlSecondsAfterFinished


def test_finished_jobs_are_deleted_and_never_run_again() -> None:
    world = with_limits(ttlSecondsAfterFinished=60)
    world.run_to_the_end()
    outcome = world.decide()
    assert (outcome.actions, outcome.requeue) == ([], 60)
    world.pass_time(60)
    outcome = world.step()
    assert {action.attempt.stage for action in outcome.actions if isinstance(action, Stop)} == set(world.states())
    created = list(world.created)
    status = dict(world.status)
    world.collect()
    assert world.jobs == {}
    for _ in range(2):
        world.restart()
        world.pass_time(1000)
        assert world.step().actions == []
    assert (world.created, world.status) == (created, status)
    world.edit(changed(world.spec, "maxAttempts", 7))
    assert world.step().actions == []
    assert world.status["phase"] == "Succeeded"


def test_nothing_is_deleted_before_its_end_is_written() -> None:
    world = with_limits(ttlSecondsAfterFinished=0)
    job = world.run_until("publish")
    world.complete(job)
    world.pass_time(100)
    assert world.step(write_status=False).actions == []
    outcome = world.decide()
    world.apply(outcome)
    assert outcome.actions == []
    assert len(world.decide().actions) == 3


def test_a_failed_run_is_cleared_away_and_stays_failed() -> None:
    world = with_limits(ttlSecondsAfterFinished=10)
    world.fail(world.run_until("lora"), ExitCode.BAD_INPUT)
    world.step()
    world.pass_time(10)
    assert len(world.step().actions) == 2
    world.collect()
    assert world.step().actions == []
    assert world.status["phase"] == "Failed"
    world.edit(changed(world.spec, "runId", "again"))
    assert world.run_to_the_end() == ["prepare", "lora", "publish"]


def test_without_a_ttl_jobs_stay() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    world.pass_time(10**8)
    outcome = world.step()
    assert (outcome.actions, outcome.requeue) == ([], None)
