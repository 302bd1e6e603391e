"""The design's table of faults and their answers, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune_api.stage import ExitCode, Reason
from finetune_api.status import Status
from finetune_operator.actions import Create, Stop
from finetune_operator.events import events
from finetune_operator.reconcile import reconcile
from finetune_operator.view import read_job

from ..api.specs import Spec, changed, job_spec
from .world import World


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (changed(job_spec(), "passes[0].config.loraR", 8), "spec.passes[0].config.loraR"),
        (changed(job_spec(), "passes[0].config.r", "eight"), "spec.passes[0].config.r"),
        (job_spec(passes=[*job_spec()["passes"][1:], job_spec()["passes"][0]]), "spec.passes[0]"),
    ],
    ids=["unknown key", "wrong type", "impossible order"],
)
def test_a_wrong_spec(spec: Spec, path: str) -> None:
    world = World(spec)
    assert world.step().actions == []
    valid = world.condition("SpecValid")
    assert (valid["status"], world.status["phase"]) == ("False", "Failed")
    assert path in valid["message"]


@pytest.mark.parametrize(
    "reason",
    [
        *(Reason.DATA_NOT_FOUND, Reason.COLUMN_NOT_FOUND, Reason.NO_SAMPLES, Reason.BUCKET_NOT_FOUND),
        *(Reason.ACCESS_DENIED, Reason.CREDENTIALS_INVALID, Reason.MODEL_GATED, Reason.MODEL_NOT_FOUND),
    ],
)
def test_inputs_that_are_not_as_said(reason: Reason) -> None:
    world = World(job_spec(systems=[{"name": "gpu", "resources": {"limits": {"nvidia.com/gpu": 1}}}]))
    world.step()
    job = world.only()
    world.refuse(job, ExitCode.BAD_INPUT, reason, "what is wrong with it")
    world.pass_time(10_000)
    assert world.step().actions == []
    assert (world.status["phase"], world.condition("Succeeded")["reason"]) == ("Failed", reason)
    assert "what is wrong with it" in world.status["message"]
    assert world.created == [job], "no GPU was asked for"


def out_of_gpu_memory(world: World, job: str) -> None:
    world.refuse(job, ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY, "lower perDeviceTrainBatchSize")


def out_of_host_memory(world: World, job: str) -> None:
    world.fail(job, 137, reason="OOMKilled")


@pytest.mark.parametrize("fault", [out_of_gpu_memory, out_of_host_memory])
def test_out_of_memory(fault: Callable[[World, str], None]) -> None:
    world = World(job_spec(systems=[{"name": "box", "resources": {"limits": {"memory": "8Gi"}}}]))
    world.spec["engine"]["host"] = "box"
    fault(world, world.run_until("lora"))
    before = Status.model_validate(world.status)
    assert world.step().actions == []
    assert world.stage("lora")["reason"] == "OutOfMemory"
    assert "perDeviceTrainBatchSize" in world.status["message"]
    told = [event.reason for event in events(before, Status.model_validate(world.status))]
    assert told == ["OutOfMemory", "StageFailed"]
    # More memory is a new template, so the stage runs again, as its first attempt.
    world.edit(changed(world.spec, "systems[0].resources.limits.memory", "16Gi"))
    assert world.run_to_the_end()[:2] == ["prepare", "lora"]
    assert (world.status["phase"], world.stage("lora")["attempts"]) == ("Succeeded", 1)


@pytest.mark.parametrize("code", [ExitCode.HARDWARE, ExitCode.STALLED])
def test_faults_of_the_node(code: int) -> None:
    world = World(job_spec())
    world.fail(world.run_until("lora"), code)
    world.pass_time(60)
    world.step()
    template = world.jobs[world.only()]["spec"]["template"]["spec"]
    assert "node-1" in str(template["affinity"])
    assert world.stage("lora")["attempts"] == 2


def evicted(world: World, job: str) -> None:
    """Kubernetes ignores the pod's ending and makes another one of the same Job."""
    world.wait_pod(job, {})


def preempted(world: World, job: str) -> None:
    world.requeue(job)


@pytest.mark.parametrize("fault", [evicted, preempted])
def test_a_pod_that_must_make_room(fault: Callable[[World, str], None]) -> None:
    world = World(changed(job_spec(), "queueName", "team"))
    job = world.run_until("lora")

    def told() -> list[str]:
        before = Status.model_validate(world.status)
        world.step()
        return [event.reason for event in events(before, Status.model_validate(world.status))]

    fault(world, job)
    assert told() == ["Preempted"]
    world.run_pod(job)
    assert told() == ["Resumed"]
    stage = world.stage("lora")
    assert (stage["job"], stage["attempts"], stage["retries"]) == (job, 1, 0)


def test_a_store_that_does_not_answer() -> None:
    world = World(job_spec())
    world.refuse(world.run_until("lora"), ExitCode.INFRASTRUCTURE, Reason.STORE_UNAVAILABLE, "503 Slow Down")
    assert world.step().requeue == 10
    world.pass_time(10)
    world.step()
    job = world.only()
    assert world.stage("lora")["attempts"] == 2
    assert "affinity" not in world.jobs[job]["spec"]["template"]["spec"]


def test_two_operators_at_once_and_one_that_is_killed() -> None:
    world = World(job_spec())
    for _ in range(7):
        body, seen = world.body(), world.seen()
        both = [reconcile(read_job(body), seen, world.settings, world.now) for _ in range(2)]
        for outcome in both:
            world.apply(outcome, write_status=False)
        world.restart()
        world.step()
        (job,) = world.unfinished()
        world.run_pod(job)
        world.complete(job)
    world.step()
    assert world.status["phase"] == "Succeeded"
    assert len(world.created) == len(set(world.created)) == 7


def test_a_job_that_is_deleted_while_it_runs() -> None:
    world = World(job_spec(systems=[{"name": "two", "nodes": 2}], queueName="team"))
    world.spec["engine"]["host"] = "two"
    world.run_until("lora")
    owned: list[dict[str, Any]] = [*world.jobs.values(), *world.config_maps.values(), *world.services.values()]
    assert len(owned) == 5
    for item in owned:
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (world.uid, True, True)
        assert "finalizers" not in item["metadata"]
    body = world.body()
    body["metadata"]["deletionTimestamp"] = "2026-11-23T21:00:00Z"
    outcome = reconcile(read_job(body), world.seen(), world.settings, world.now)
    assert (outcome.actions, outcome.status) == ([], None)


def test_a_node_that_is_gone() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.lose_node(job)
    world.step()
    assert (world.condition("Stalled")["status"], world.condition("Stalled")["reason"]) == ("True", "NodeUnreachable")
    world.pass_time(300)
    assert [type(action) for action in world.step().actions] == [Stop, Create]
