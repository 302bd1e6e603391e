"""The shell around odd objects: each poison job is told of or mended, and the others go on."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import pytest

from finetune_api.status import Status
from finetune_operator import controller as shell
from finetune_operator import labels
from finetune_operator.controller import Controller
from finetune_operator.kube import ApiError
from finetune_operator.policy import read_policy
from finetune_operator.reporting import merge_patch, shortened
from finetune_operator.settings import Settings
from finetune_operator.waiting import NO_POD_AFTER
from finetune_operator.watched import WATCH_LAG
from finetune_operator.workloads import Workloads

from ..api.specs import job_spec
from .world import SETTINGS, World

Body = dict[str, Any]
KEY = ("team", "phi3")


class FakeKube:
    """The API server behind a controller: it stores what it is given, and refuses what `refuse` says."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.objects: dict[tuple[str, str], Body] = {}
        self.refuse: list[ApiError] = []
        self.refuse_creates: list[ApiError] = []
        self.patches: list[Body] = []
        self.events: list[Body] = []

    async def create(self, manifest: Body) -> Body:
        if manifest["kind"] == "Event":
            self.events.append(manifest)
            return manifest
        if self.refuse_creates:
            raise self.refuse_creates.pop(0)
        place = (manifest["kind"], manifest["metadata"]["name"])
        if place in self.objects:
            raise ApiError(409, "AlreadyExists", "it is there")
        made = copy.deepcopy(manifest)
        made["metadata"] |= {"uid": f"uid-{place[1]}", "creationTimestamp": "2026-11-23T20:00:00Z"}
        self.objects[place] = made
        return made

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        del namespace
        return self.objects.get((kind, name))

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        del namespace, uid
        self.objects.pop(("Job", name), None)

    async def patch_status(self, namespace: str, name: str, status: Body, version: str) -> Body:
        del namespace, name, version
        if self.refuse:
            raise self.refuse.pop(0)
        self.patches.append(status)
        self.world.status = merged(self.world.status, status)
        return self.world.body()


def merged(before: Body, patch: Body) -> Body:
    result = dict(before)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(before.get(name, {}), value) if isinstance(value, dict) else value
    return result


class Scene:
    """A controller on a fake API server, with one job that the watch shows."""

    def __init__(self, **metadata: Any) -> None:
        self.world = World(job_spec())
        self.world.annotations = metadata
        self.kube = FakeKube(self.world)
        self.controller = Controller(SETTINGS, asyncio.Event())
        self.controller.kube = self.kube  # type: ignore[assignment]  # as much as it uses
        self.controller.workloads = Workloads(self.controller.kube)

    async def look(self, *, jobs: bool = True) -> float | None:
        """One piece of work, with the watches up to date; without `jobs` that of the Jobs is deaf."""
        self.controller.watched._finetune_jobs = {KEY: [self.world.body()]}
        known = [item for (kind, _), item in self.kube.objects.items() if kind == "Job"]
        self.controller.watched._jobs = {KEY: known if jobs else []}
        return await self.controller.work(KEY)

    @property
    def status(self) -> Status:
        return Status.model_validate(self.world.status)

    def condition(self, kind: str) -> tuple[str, str, str]:
        found = next(item for item in self.status.conditions if item.type == kind)
        return found.status, found.reason, found.message

    def jobs(self) -> list[str]:
        return [name for kind, name in self.kube.objects if kind == "Job"]


async def test_what_the_operator_fails_at_is_said_on_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    await scene.look()
    monkeypatch.setattr(shell, "reconcile", lambda *_: {}["<b>odd</b>"])
    with pytest.raises(KeyError):
        await scene.look()
    state, reason, message = scene.condition("Succeeded")
    assert (state, reason) == ("Unknown", "InternalError")
    assert "KeyError" in message
    assert "<" not in message
    assert scene.status.stages[0].job in scene.jobs(), "what was known is kept"
    writes = len(scene.kube.patches)
    with pytest.raises(KeyError):
        await scene.look()
    assert len(scene.kube.patches) == writes, "it is said once"
    monkeypatch.undo()
    await scene.look()
    assert scene.condition("Succeeded")[1] != "InternalError"


@pytest.mark.parametrize("text", ["x" * 250_000, json.dumps({"spec": {"a": 1}}), "[" * 100_000, "null", "[]"])
async def test_annotations_near_their_limit_are_read_and_not_repeated(text: str) -> None:
    scene = Scene(**{"kubectl.kubernetes.io/last-applied-configuration": text})
    await scene.look()
    assert all(len(json.dumps(patch)) < 20_000 for patch in scene.kube.patches)
    assert all(len(json.dumps(item)) < 50_000 for item in scene.kube.objects.values())
    assert scene.condition("SpecValid")[0] == ("False" if '"a"' in text else "True")


async def test_a_status_that_is_too_large_is_said_in_fewer_words() -> None:
    scene = Scene()
    scene.kube.refuse = [ApiError(413, "RequestEntityTooLarge", "limit is 3145728")]
    await scene.look()
    assert len(scene.kube.patches) == 1
    assert scene.status.stages[0].job in scene.jobs()
    assert "annotations" in (scene.status.message or "")


def test_a_shortened_status_keeps_what_the_course_rests_on() -> None:
    stage = {"name": "lora", "state": "Succeeded", "key": "k", "digest": "d", "job": "j"}
    long = {**stage, "message": "m" * 900, "metrics": {"loss": 1.0}, "progress": {"step": 1}}
    found = shortened({"stages": [long], "progress": "1/5", "message": "m" * 4000, "plan": {"name": "p"}})
    assert found["plan"] == {"name": "p"}
    assert found["stages"] == [{**stage, "message": found["message"]}]
    assert "progress" not in found


async def test_another_refusal_is_not_hidden() -> None:
    scene = Scene()
    scene.kube.refuse = [ApiError(422, "Invalid", "status.phase: unsupported")]
    with pytest.raises(ApiError, match="unsupported"):
        await scene.look()


async def test_a_job_whose_labels_were_taken_is_looked_at_again_without_an_event() -> None:
    scene = Scene()
    assert await scene.look() == NO_POD_AFTER
    scene.controller.watched._created.clear()
    (name,) = scene.jobs()
    assert await scene.look(jobs=False) == WATCH_LAG
    assert scene.jobs() == [name], "it is there, so that it is not made again"


async def test_a_job_deleted_by_hand_is_made_again() -> None:
    scene = Scene()
    await scene.look()
    scene.controller.watched._created.clear()
    (first,) = scene.jobs()
    del scene.kube.objects["Job", first]
    await scene.look()
    (second,) = scene.jobs()
    assert second != first
    assert (scene.status.stages[0].attempts, scene.status.stages[0].retries) == (1, 1)


async def test_a_job_whose_identity_was_edited_away_is_replaced() -> None:
    scene = Scene()
    await scene.look()
    scene.controller.watched._created.clear()
    (first,) = scene.jobs()
    scene.kube.objects["Job", first]["metadata"]["labels"][labels.IDENTITY] = "another"
    await scene.look()
    (second,) = scene.jobs()
    assert second != first


async def test_a_foreign_job_of_that_name_is_left_alone_and_told_of() -> None:
    scene = Scene()
    await scene.look()
    (name,) = scene.jobs()
    foreign = {"metadata": {"name": name, "uid": "f", "ownerReferences": []}, "kind": "Job"}
    fresh = Scene()
    fresh.kube.objects["Job", name] = foreign
    assert await fresh.look(jobs=False) == shell.CREATE_AGAIN_AFTER
    assert fresh.kube.objects["Job", name] is foreign
    assert "is not this job's" in fresh.condition("Succeeded")[2]


def prepared(scene: Scene) -> None:
    """Let prepare end well, as the world's trainer does."""
    (name,) = scene.jobs()
    world, job = scene.world, scene.kube.objects["Job", name]
    world.jobs[name] = job
    world.run_pod(name)
    world.complete(name)
    scene.controller.watched._pods = {KEY: list(world.pods.values())}


async def test_a_plan_that_cannot_be_read_is_told_of_by_name() -> None:
    scene = Scene()
    await scene.look()
    prepared(scene)
    await scene.look()
    plan = next(name for kind, name in scene.kube.objects if kind == "ConfigMap")
    for data in ({"plan.json": "{"}, {}, {"plan.json": "x" * 900_000}):
        scene.kube.objects["ConfigMap", plan]["data"] = data
        scene.controller._plans.clear()
        await scene.look()
        said = scene.condition("Succeeded")
        assert said[1] == "CreateRefused"
        assert plan in said[2]
        assert "delete it" in said[2]
    del scene.kube.objects["ConfigMap", plan]
    await scene.look()
    assert scene.kube.objects["ConfigMap", plan]["data"]
    assert scene.condition("Succeeded")[1] != "CreateRefused"


@pytest.mark.parametrize(
    "garbage", [{"phase": 7}, {"stages": [{"name": "lora", "job": "../x"}]}, {"plan": {"name": "p"}}]
)
async def test_a_foreign_status_is_replaced(garbage: Body) -> None:
    scene = Scene()
    scene.world.status = garbage
    await scene.look()
    assert scene.status.stages[0].name == "prepare"
    assert len(scene.jobs()) == 1


async def test_a_job_that_fails_does_not_stop_the_others() -> None:
    scene = Scene()
    other = World(job_spec(), name="good")
    broken = scene.world.body()
    del broken["metadata"]["uid"]
    scene.controller.watched._finetune_jobs = {KEY: [broken], ("team", "good"): [other.body()]}
    scene.controller.queue.start()
    scene.controller.queue.add(KEY)
    scene.controller.queue.add(("team", "good"))
    async with asyncio.timeout(5):
        while not scene.jobs():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await scene.controller.queue.stop()
    assert scene.jobs()[0].startswith("good-")


async def test_nothing_is_done_before_all_policies_are_known() -> None:
    scene = Scene()
    scene.controller.watched._finetune_jobs = {KEY: [scene.world.body()]}
    scene.controller._begin()
    scene.controller.on_gone(KEY)
    await asyncio.sleep(0.05)
    assert (scene.jobs(), scene.controller._ended()) == ([], "")
    await scene.controller.policies.on_namespace(
        body={"metadata": {"name": "default"}},  # type: ignore[arg-type]
        name="default",
        type=None,
    )
    async with asyncio.timeout(5):
        while not scene.jobs():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await scene.controller.queue.stop()
    for task in scene.controller._tasks:
        task.cancel()


async def test_probes_say_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Controller(Settings(stuck_seconds=10), asyncio.Event())
    assert [check() for check in (found._stuck, found._deaf, found._ended)] == ["", "", ""]
    monkeypatch.setattr(found.queue, "longest", lambda: 11.0)
    monkeypatch.setattr(found._resync, "overdue", lambda: 12.0)
    found._spawn(asyncio.sleep(0), "meter")
    await asyncio.sleep(0.01)
    assert found._stuck() == "a worker has been at one job for 11 s"
    assert found._deaf() == "a watch has shown nothing new for 12 s"
    assert found._ended() == "the task meter has ended"


def test_a_merge_patch_takes_away_what_is_not_wanted() -> None:
    before = {"a": 1, "b": {"c": 1, "d": 2}, "e": [1]}
    after = {"b": {"c": 1, "d": 3}, "e": [1], "f": None}
    assert merged(before, merge_patch(before, after)) == {"b": {"c": 1, "d": 3}, "e": [1]}


def event_of(item: Body) -> dict[str, Any]:
    meta = item["metadata"]
    return {"body": item, "namespace": KEY[0], "name": meta["name"], "type": "MODIFIED"}


async def heard(scene: Scene, item: Body) -> tuple[int, bool]:
    """What an event of `item` leaves in the queue: keys that wait, and whether one waits for more news."""
    queue = scene.controller.queue
    await {"FinetuneJob": scene.controller.on_finetune_job, "Job": scene.controller.on_job}.get(
        item.get("kind", ""), scene.controller.on_pod
    )(**event_of(item))
    found = queue.depth, KEY in queue._timers
    queue._waiting.clear()
    queue._cancel_timer(KEY)
    return found


async def test_what_it_did_itself_is_no_news() -> None:
    scene = Scene()
    await scene.look()
    (name,) = scene.jobs()
    job = scene.kube.objects["Job", name]
    assert await heard(scene, job) == (0, False)
    assert await heard(scene, scene.world.body()) == (0, False), "the status that it wrote"
    assert await heard(scene, scene.world.body()) == (1, False), "heard again, it is a watch that began anew"
    job["metadata"]["resourceVersion"] = "2"
    assert await heard(scene, job) == (1, False)


async def test_an_end_is_news_whatever_version_it_bears() -> None:
    scene = Scene()
    await scene.look()
    await scene.controller.on_finetune_job(**{**event_of(scene.world.body()), "type": "DELETED"})
    scene.controller.watched._finetune_jobs = {}
    assert await scene.controller.work(KEY) is None
    assert scene.controller.queue.depth == 1
    assert not scene.controller.watched._created
    assert (KEY[0], "") in scene.controller.queue._timers, "its place is free"
    scene.controller.queue._cancel_timer((KEY[0], ""))


async def test_a_suspended_job_is_looked_at_for_its_queue() -> None:
    scene = Scene()
    scene.world.spec["queueName"] = "team"
    await scene.look()
    (name,) = scene.jobs()
    assert await heard(scene, scene.kube.objects["Job", name]) == (1, False)


async def test_the_end_of_a_job_is_urgent_and_so_is_its_pod_where_that_comes_later() -> None:
    scene = Scene()
    await scene.look()
    prepared(scene)
    (name,) = scene.jobs()
    job, (pod,) = scene.kube.objects["Job", name], scene.controller.watched._pods[KEY]
    added: list[bool] = []
    scene.controller.queue.add = lambda _, urgent=False: added.append(urgent)  # type: ignore[method-assign]
    job["metadata"]["resourceVersion"] = "2"
    await scene.controller.on_job(**event_of(job))
    assert added == [True]
    scene.controller.watched._jobs = {KEY: [{**job, "status": {}}]}
    await scene.controller.on_pod(**event_of(pod))
    assert added == [True]
    assert KEY in scene.controller.queue._timers, "the Job's end will tell more"
    scene.controller.queue._cancel_timer(KEY)
    scene.controller.watched._jobs = {KEY: [job]}
    await scene.controller.on_pod(**event_of(pod))
    assert added == [True, True]


async def test_who_waits_for_a_place_gets_it_when_another_ends() -> None:
    scene = Scene()
    policy = read_policy({"metadata": {"name": "team"}, "spec": {"limits": {"maxRunningJobs": 1}}})
    scene.controller.policies._policies = {"team": [{"metadata": {"uid": "p"}, "policy": policy}]}
    scene.controller.policies._namespaces = {KEY[0]: [{"metadata": {"uid": "n"}, "labels": {}}]}
    older = {**scene.world.body(), "status": {"phase": "Running"}}
    older["metadata"] = {**older["metadata"], "name": "older", "uid": "older"}
    shown = {KEY: [scene.world.body()], (KEY[0], "older"): [older]}

    async def look() -> None:
        scene.controller.watched._finetune_jobs = shown
        await scene.controller.work(KEY)
        shown[KEY] = [scene.world.body()]

    await look()
    assert (scene.jobs(), scene.status.phase) == ([], "Queued")
    older["status"] = {"phase": "Succeeded", "observedGeneration": 1}
    assert await heard(scene, older) == (1, False)
    assert (KEY[0], "") in scene.controller.queue._timers
    await scene.controller.work((KEY[0], ""))
    assert KEY in scene.controller.queue._waiting
    await look()
    assert len(scene.jobs()) == 1
    scene.controller.queue._waiting.clear()
    await scene.controller.work((KEY[0], ""))
    assert scene.controller.queue.depth == 0, "nobody waits any more"
    scene.controller.queue._cancel_timer((KEY[0], ""))


async def test_a_server_that_is_too_busy_refuses_nothing() -> None:
    scene = Scene()
    scene.kube.refuse_creates = [ApiError(429, "TooManyRequests", "later")]
    with pytest.raises(ApiError, match="later"):
        await scene.look()
    assert scene.kube.patches == [], "the queue tries again, and the user is told nothing"
    await scene.look()
    assert len(scene.jobs()) == 1
