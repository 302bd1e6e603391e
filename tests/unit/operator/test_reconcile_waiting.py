"""Pods that do not start, and Jobs that wait: what status says meanwhile."""

from __future__ import annotations

import pytest

from finetune_operator import labels

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
    [("ErrImagePull", "ErrImagePull"), ("CreateContainerConfigError", "CreateContainerConfigError"), ("-1 x!", "x")],
)
def test_a_container_that_cannot_start_is_said(reason: str, shown: str) -> None:
    world = World(job_spec())
    world.step()
    waiting = {"reason": reason, "message": 'secret "s3" not found\n<b>'}
    world.wait_pod(world.only(), {"containerStatuses": [{"name": "trainer", "state": {"waiting": waiting}}]})
    world.step()
    assert world.stage("prepare")["reason"] == shown
    assert world.stage("prepare")["message"].startswith('secret "s3" not found ‹b›')


def test_a_pod_that_is_just_starting_is_no_news() -> None:
    world = World(job_spec())
    world.step()
    waiting = {"reason": "ContainerCreating"}
    world.wait_pod(world.only(), {"containerStatuses": [{"name": "trainer", "state": {"waiting": waiting}}]})
    world.step()
    assert world.stage("prepare")["reason"] == "Starting"


def test_a_job_that_waits_in_its_queue() -> None:
    world = World(changed(job_spec(), "queueName", "team"))
    world.step()
    job = world.only()
    assert world.jobs[job]["metadata"]["labels"][labels.QUEUE] == "team"
    world.jobs[job]["spec"]["suspend"] = True
    world.step()
    assert (world.status["phase"], world.condition("Queued")["status"]) == ("Queued", "True")
