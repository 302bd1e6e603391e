"""Nodes that fail or are gone, endings from outside without end, and the cause where the pod is gone."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.stage import ExitCode
from finetune_api.status import MAX_EXCLUDED_NODES
from finetune_operator.actions import Create, Stop

from ..api.specs import LORA, changed, job_spec, passes_only
from .world import World


def excluded(world: World, job: str) -> list[str]:
    """The nodes that the Job's pod keeps away from."""
    affinity: dict[str, Any] = world.jobs[job]["spec"]["template"]["spec"].get("affinity", {})
    if not affinity:
        return []
    required = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    ((expression,),) = (term["matchExpressions"] for term in required["nodeSelectorTerms"])
    assert (expression["key"], expression["operator"]) == ("kubernetes.io/hostname", "NotIn")
    return list(expression["values"])


def next_attempt(world: World) -> str:
    world.pass_time(1000)
    world.step()
    return world.only()


@pytest.mark.parametrize("code", [ExitCode.HARDWARE, ExitCode.STALLED])
@pytest.mark.parametrize("gone", [False, True])
def test_the_attempt_after_a_fault_of_the_node_goes_elsewhere(code: int, *, gone: bool) -> None:
    world = World(job_spec())
    world.node = "bad"
    job = world.run_until("lora")
    world.fail(job, code, gone=gone)
    world.step()
    assert world.stage("lora")["excludedNodes"] == ["bad"]
    # The Job itself may be gone: what was found out is in status.
    world.delete(job)
    job = next_attempt(world)
    assert excluded(world, job) == ["bad"]
    world.node = "good"
    world.run_pod(job)
    world.complete(job)
    assert world.run_to_the_end()[0] == "merge"
    assert excluded(world, world.of_stage("merge")[0]) == []


@pytest.mark.parametrize("code", [ExitCode.INTERNAL, ExitCode.INFRASTRUCTURE, ExitCode.TERMINATED])
def test_other_failures_say_nothing_about_the_node(code: int) -> None:
    world = World(job_spec())
    world.fail(world.run_until("lora"), code)
    assert excluded(world, next_attempt(world)) == []


def test_only_the_newest_faulty_nodes_are_kept() -> None:
    world = World(changed(job_spec(), "maxAttempts", 20))
    job = world.run_until("lora")
    for number in range(10):
        world.node = f"node-{number}"
        world.run_pod(job)
        world.fail(job, ExitCode.HARDWARE)
        job = next_attempt(world)
    assert excluded(world, job) == [f"node-{number}" for number in range(2, 10)]
    assert len(excluded(world, job)) == MAX_EXCLUDED_NODES


def test_an_unschedulable_pod_names_the_nodes_it_keeps_away_from() -> None:
    world = World(job_spec())
    world.fail(world.run_until("lora"), ExitCode.HARDWARE)
    world.unschedulable(next_attempt(world))
    world.step()
    assert "Not tried on node-1, where attempts met with faulty hardware" in world.status["message"]


# --- a node that is gone


def test_a_node_that_is_silent_is_said_and_then_given_up() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.pass_time(60)
    world.lose_node(job)
    outcome = world.step()
    assert (outcome.actions, outcome.requeue) == ([], 300)
    stalled = world.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "NodeUnreachable")
    assert "node node-1 has not been heard of since 2026-11-23T" in stalled["message"]
    assert "kubectl delete node node-1" in stalled["message"]
    assert (world.status["phase"], world.condition("Succeeded")["status"]) == ("Running", "Unknown")
    assert world.condition("Reconciling")["status"] == "False"
    world.pass_time(300)
    stop, create = world.step().actions
    assert isinstance(stop, Stop)
    assert isinstance(create, Create)
    assert stop.attempt.name == job
    second = world.only()
    assert excluded(world, second) == ["node-1"]
    stage = world.stage("lora")
    assert (stage["attempts"], stage["retries"], stage["reason"]) == (1, 1, "NodeUnreachable")
    # The old Job hangs in its deletion, and nothing waits for it.
    world.node = "node-2"
    world.run_pod(second)
    world.step()
    assert world.stage("lora")["reason"] == "Running"
    assert world.condition("Stalled")["status"] == "False"
    world.complete(second)
    assert world.run_to_the_end()[-1] == "publish"


def test_a_node_that_comes_back_is_no_news() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.lose_node(job)
    world.step()
    world.run_pod(job)
    world.pass_time(301)
    assert world.step().actions == []
    assert world.condition("Stalled")["status"] == "False"


def test_a_deletion_that_never_ends_is_not_waited_for() -> None:
    """After `suspend`, with the node gone: the pod cannot end, and the job goes on without it."""
    world = World(job_spec())
    job = world.run_until("lora")
    world.edit(changed(world.spec, "suspend", True))
    world.step()
    world.pods[job]["metadata"]["deletionTimestamp"] = "2026-11-23T20:05:00Z"
    world.edit(job_spec())
    world.step()
    assert world.stage("lora")["reason"] == "Stopping"
    assert world.step().requeue is not None
    world.pass_time(10 * 60)
    world.step()
    assert world.stage("lora")["reason"] == "NodeUnreachable"
    world.pass_time(300)
    world.step()
    assert world.of_stage("lora") == [job, world.only()]


# --- endings from outside


def test_killed_and_gone_counts_since_it_may_be_memory() -> None:
    world = World(changed(job_spec(), "maxAttempts", 1))
    world.fail(world.run_until("lora"), 137, gone=True)
    world.step()
    assert (world.status["phase"], world.stage("lora")["reason"]) == ("Failed", "Terminated")
    assert "or out of memory" in world.status["message"]


def backing_off(world: World) -> float:
    """Seconds until the next try is made; 0 where a step makes it."""
    wait = world.step().requeue or 0.0
    return 0.0 if world.unfinished() else wait


def test_endings_from_outside_are_backed_off_and_bounded() -> None:
    world = World(changed(passes_only(LORA), "maxAttempts", 2))
    world.upgrade(free_retries=5)
    job = world.run_until("lora")
    waits: list[float] = []
    for _ in range(20):
        world.fail(job, ExitCode.TERMINATED)
        wait = backing_off(world)
        if world.status["phase"] == "Failed":
            break
        waits.append(wait)
        world.pass_time(wait)
        world.step()
        job = world.only()
        world.run_pod(job)
        world.step()
    assert waits == [0, 0, 10, 20, 40, 10]
    assert (world.stage("lora")["attempts"], world.stage("lora")["retries"]) == (2, 5)


def test_a_job_that_is_taken_away_again_and_again_is_backed_off() -> None:
    world = World(passes_only(LORA))
    world.run_until("lora")
    waits: list[float] = []
    for _ in range(9):
        world.delete(world.only())
        waits.append(backing_off(world))
        assert bool(world.unfinished()) == (waits[-1] == 0)
        world.pass_time(waits[-1])
        world.step()
    assert waits == [0, 0, 10, 20, 40, 80, 160, 300, 300]
    assert world.stage("lora")["attempts"] == 1
    world.pass_time(1000)
    assert world.run_to_the_end()[-1] == "publish"
