"""limits.maxRunningJobs: who has a place, who is next, and what one sees of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.places import has_begun, is_waiting, with_a_place
from finetune_operator.policy import read_policy, tenancy

from ..api.specs import changed, job_spec
from .world import World

Body = dict[str, Any]


def job(name: str, age: int, phase: str = "", *, waits: bool = False, observed: int = 1, **spec: Any) -> Body:
    """A FinetuneJob of generation 1 that was created at minute `age`."""
    reason = "RunningJobsLimit" if waits else "NotQueued"
    condition = {"type": "Queued", "status": str(waits), "reason": reason}
    status = {"phase": phase, "observedGeneration": observed, "conditions": [condition]} if phase else {}
    meta = {"name": name, "uid": name, "generation": 1, "creationTimestamp": f"2026-11-28T13:{age:02}:00Z"}
    return {"metadata": meta, "spec": spec, "status": status}


def deleting(body: Body) -> Body:
    body["metadata"]["deletionTimestamp"] = "2026-11-28T14:00:00Z"
    return body


@pytest.mark.parametrize(
    ("jobs", "limit", "places"),
    [
        ([job("b", 2), job("a", 1), job("c", 3)], 2, "ab"),
        ([job("b", 1), job("a", 1)], 1, "a"),
        ([job("young", 9, "Running"), job("a", 1), job("b", 2)], 2, ["young", "a"]),
        ([job("q", 9, "Queued"), job("a", 1, "Queued", waits=True)], 1, "q"),
        ([job("x", 1, "Pending"), job("y", 2, "Running"), job("z", 0)], 1, "xy"),
        ([job("done", 1, "Succeeded"), job("failed", 2, "Failed"), job("a", 3)], 1, "a"),
        ([job("edited", 1, "Succeeded", observed=0), job("a", 2, "Running")], 1, "a"),
        ([job("edited", 1, "Succeeded", observed=0), job("a", 2)], 1, ["edited"]),
        ([job("s", 1, "Suspended", suspend=True), job("a", 2)], 1, "a"),
        ([job("other", 1, managedBy="kueue.x-k8s.io/multikueue"), job("a", 2)], 1, "a"),
        ([deleting(job("gone", 1, "Running")), job("a", 2)], 1, "a"),
    ],
)
def test_those_that_begun_keep_their_place_and_the_oldest_go_next(
    jobs: list[Body], limit: int, places: str | list[str]
) -> None:
    assert with_a_place(jobs, limit) == set(places)


def test_a_job_that_ended_and_has_something_to_do_again_may_ask() -> None:
    ended = job("ended", 1, "Failed")
    assert with_a_place([ended, job("a", 2)], 1) == {"a"}
    assert with_a_place([ended, job("a", 2)], 1, asking="ended") == {"ended"}


@given(st.lists(st.tuples(st.integers(0, 59), st.sampled_from(["", "Running", "waits", "Succeeded"])), max_size=12))
def test_no_more_begin_than_may_and_none_waits_beside_a_free_place(drawn: list[tuple[int, str]]) -> None:
    jobs = [
        job(f"job-{number}", age, "Queued" if phase == "waits" else phase, waits=phase == "waits")
        for number, (age, phase) in enumerate(drawn)
    ]
    limit, begun = 3, {item["metadata"]["uid"] for item in jobs if has_begun(item)}
    places = with_a_place(jobs, limit)
    assert begun <= places
    wanting = sum(phase != "Succeeded" for _, phase in drawn)
    assert len(places) == max(len(begun), min(limit, wanting))


def test_the_strictest_policy_counts() -> None:
    policies = [
        read_policy({"metadata": {"name": name}, "spec": {"limits": limits}})
        for name, limits in (("wide", {"maxRunningJobs": 5}), ("narrow", {"maxRunningJobs": 2}), ("none", {}))
    ]
    assert tenancy(policies, {}).max_running() == (2, "narrow")
    assert tenancy([], {}).max_running() is None


WORDS = (
    "It waits for a place: 2 jobs of this namespace run at a time, and the oldest goes next "
    "(FinetunePolicy team, limits.maxRunningJobs)."
)


def waiting(world: World) -> World:
    world.allow(limits={"maxRunningJobs": 2})
    world.has_place = False
    return world


def test_a_job_without_a_place_makes_nothing_and_says_why() -> None:
    world = waiting(World(job_spec()))
    assert world.step().actions == []
    assert (world.status["phase"], world.status["message"]) == ("Queued", WORDS)
    queued = world.condition("Queued")
    assert (queued["status"], queued["reason"], queued["message"]) == ("True", "RunningJobsLimit", WORDS)
    assert world.condition("Reconciling")["status"] == "True"
    assert world.stage("prepare")["attempts"] == 0
    assert is_waiting(world.body())
    assert not has_begun(world.body())
    world.pass_time(100_000)
    assert world.step().requeue is None, "who ends gives it its place"
    world.has_place = True
    assert world.run_to_the_end()[0] == "prepare"
    assert world.condition("Queued")["reason"] == "NotQueued"


def test_a_job_that_has_begun_is_not_waiting() -> None:
    world = World(job_spec())
    world.step()
    assert has_begun(world.body())
    assert not is_waiting(world.body())


def test_an_edited_job_waits_with_what_it_has_and_reuses_it() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    world.edit(changed(world.spec, "passes[2].config.int4BlockSize", 64))
    assert waiting(world).step().actions == []
    assert (world.status["phase"], world.condition("Queued")["reason"]) == ("Queued", "RunningJobsLimit")
    assert not has_begun(world.body())
    world.has_place = True
    assert "lora" not in world.run_to_the_end()


def test_what_ended_has_nothing_to_wait_for() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    waiting(world).step()
    assert world.status["phase"] == "Succeeded"


def test_a_suspended_or_refused_job_does_not_wait() -> None:
    world = waiting(World(changed(job_spec(), "suspend", True)))
    world.step()
    assert world.status["phase"] == "Suspended"
    world = waiting(World(changed(job_spec(), "passes", [])))
    world.step()
    assert world.status["phase"] == "Failed"
