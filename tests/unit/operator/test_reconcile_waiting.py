"""Pods that do not start, and Jobs that wait: what status says meanwhile."""

from __future__ import annotations

import pytest

from finetune_operator import labels
from finetune_operator.times import rfc3339

from ..api.specs import changed, job_spec
from .world import World


def test_an_unschedulable_pod_is_said() -> None:
    world = World(job_spec())
    world.step()
    world.unschedulable(world.only())
    world.step()
    assert world.stage("prepare")["reason"] == "Unschedulable"
    assert world.condition("Succeeded")["reason"] == "Unschedulable"
    assert world.status["message"] == "prepare: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    assert world.status["phase"] == "Pending"


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("ErrImagePull", "ErrImagePull"),
        ("CreateContainerConfigError", "CreateContainerConfigError"),
        ("-1 x!", "Waiting"),
    ],
)
def test_a_container_that_cannot_start_is_said(reason: str, shown: str) -> None:
    world = World(job_spec())
    world.step()
    waiting = {"reason": reason, "message": 'secret "s3" not found\n<b>'}
    world.wait_pod(world.only(), {"containerStatuses": [{"name": "trainer", "state": {"waiting": waiting}}]})
    world.step()
    assert world.stage("prepare")["reason"] == shown
    assert 'secret "s3" not found ‹b›' in world.stage("prepare")["message"]
    assert ("x: " in world.stage("prepare")["message"]) == (shown == "Waiting")


def test_a_pod_that_is_just_starting_is_no_news() -> None:
    world = World(job_spec())
    world.step()
    waiting = {"reason": "ContainerCreating"}
    world.wait_pod(world.only(), {"containerStatuses": [{"name": "trainer", "state": {"waiting": waiting}}]})
    world.step()
    assert world.stage("prepare")["reason"] == "Starting"


def test_a_job_that_gets_no_pod_is_said_after_a_while() -> None:
    world = World(job_spec())
    world.step()
    job = world.only()
    assert world.step().requeue == 30
    assert world.stage("prepare")["reason"] == "Starting"
    world.pass_time(30)
    world.step()
    assert world.stage("prepare")["reason"] == "NoPod"
    assert "a quota or an admission policy may refuse it" in world.status["message"]
    assert f"kubectl describe job {job}" in world.status["message"]
    world.run_pod(job)
    world.step()
    assert world.stage("prepare")["reason"] == "Running"


def test_a_job_that_left_its_queue_a_moment_ago_has_time_to_get_a_pod() -> None:
    world = World(changed(job_spec(), "queueName", "team"))
    world.step()
    world.pass_time(5000)
    job = world.jobs[world.only()]
    del job["spec"]["suspend"]
    resumed = {"type": "Suspended", "status": "False", "lastTransitionTime": rfc3339(world.now)}
    job["status"] = {"conditions": [resumed]}
    assert world.step().requeue == 30
    assert world.stage("prepare")["reason"] == "Starting"


def test_a_pod_without_containers_names_what_may_be_missing() -> None:
    world = World(job_spec())
    world.step()
    job = world.only()
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": rfc3339(world.now)}
    creating = {"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}
    world.wait_pod(job, {"conditions": [placed], "containerStatuses": [creating]})
    assert world.step().requeue == 60
    world.pass_time(60)
    world.step()
    assert world.stage("prepare")["reason"] == "ContainerCreating"
    assert "on node node-1" in world.status["message"]
    assert f"kubectl describe pod {job}-x" in world.status["message"]


def test_a_job_that_waits_in_its_queue() -> None:
    world = World(changed(job_spec(), "queueName", "team"))
    world.step()
    job = world.only()
    assert world.jobs[job]["metadata"]["labels"][labels.QUEUE] == "team"
    world.jobs[job]["spec"]["suspend"] = True
    world.step()
    assert (world.status["phase"], world.condition("Queued")["status"]) == ("Queued", "True")
