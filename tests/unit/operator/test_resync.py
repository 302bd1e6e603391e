"""What a watch misses is found: objects that went unsaid, and a stream that died."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator import resync
from finetune_operator.caches import Echoes, slim
from finetune_operator.kube import ApiError
from finetune_operator.resync import Cache, Resync

KEY = ("team", "phi3")


class Lists:
    """An API server that answers with the versions that it is given."""

    def __init__(self) -> None:
        self.there: dict[str, int] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.away = False

    async def versions(self, kind: str, namespace: str, selector: str) -> dict[str, int]:
        self.asked.append((kind, namespace, selector))
        if self.away:
            raise ApiError(503, "Away", "gone fishing")
        return dict(self.there)


def item(uid: str, version: int) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": str(version)}}


class Scene:
    """A cache that holds `held`, looked past by `look`."""

    def __init__(self, *namespaces: str) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.lists = Lists()
        self.told: list[Any] = []
        self.cache = Cache("Job", "a=b", lambda: [(KEY, found) for found in self.held.values()])
        self.resync = Resync([self.cache], namespaces, self.told.append, 300.0)

    async def look(self) -> None:
        await self.resync._compare(self.lists, self.cache)  # type: ignore[arg-type]  # as much as it uses


async def test_an_object_that_went_unsaid_is_a_ghost_until_the_watch_drops_it() -> None:
    scene = Scene("a", "b")
    scene.held = {"1": item("1", 5), "2": item("2", 6)}
    scene.lists.there = {"2": 6}
    await scene.look()
    assert scene.lists.asked == [("Job", "a", "a=b"), ("Job", "b", "a=b")]
    assert scene.told == [KEY]
    assert scene.resync.is_ghost(scene.held["1"])
    assert not scene.resync.is_ghost(scene.held["2"])
    await scene.look()
    assert scene.told == [KEY], "it is told once"
    ghost = scene.held.pop("1")
    await scene.look()
    assert not scene.resync.is_ghost(ghost)


async def test_a_watch_that_shows_nothing_new_is_noticed_at_the_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(resync.time, "monotonic", lambda: clock[0])
    scene = Scene()
    scene.held, scene.lists.there = {"1": item("1", 5)}, {"1": 6}
    await scene.look()
    assert scene.resync.overdue() == 0.0, "the watch may be a moment behind"
    clock[0] = 130.0
    await scene.look()
    assert scene.resync.overdue() == 30.0
    scene.held["1"] = item("1", 7)
    await scene.look()
    assert scene.resync.overdue() == 0.0


async def test_what_changes_all_the_time_is_a_moment_behind_and_never_in_debt(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(resync.time, "monotonic", lambda: clock[0])
    scene = Scene()
    for version in range(1, 40):
        scene.held, scene.lists.there = {"1": item("1", version)}, {"1": version + 1}
        await scene.look()
        assert scene.resync.overdue() == 0.0
        clock[0] += 15
    await scene.look()
    assert scene.resync.overdue() == 15.0, "the same version, a look later"


async def test_a_doubt_is_looked_into_once_and_a_debt_until_it_is_paid() -> None:
    scene = Scene()

    async def look(held: int, listed: int) -> float:
        scene.held, scene.lists.there = {"1": item("1", held)}, {"1": listed}
        await scene.look()
        return scene.resync._pause()

    assert await look(1, 1) == 300.0
    assert await look(1, 2) == 15.0
    assert await look(2, 3) == 300.0, "what was owed has come: it only changes often"
    assert await look(2, 4) == 15.0, "the third version has not"
    assert await look(2, 4) == 15.0
    assert await look(4, 4) == 300.0


async def test_the_caches_are_full_once_they_held_what_there_was_however_much_comes_meanwhile() -> None:
    scene = Scene()
    scene.lists.there = {"1": 1, "2": 1}
    assert not scene.resync.synced
    await scene.look()
    assert not scene.resync.synced
    scene.held = {"1": item("1", 1)}
    scene.lists.there = {"1": 2, "2": 1, "3": 1}
    await scene.look()
    assert not scene.resync.synced, "the second is awaited still"
    scene.lists.there = {"1": 3, "3": 2, "4": 1}
    await scene.look()
    assert scene.resync.synced, "the second is gone; what came since is the watch's to tell"


async def test_a_kind_that_the_cluster_does_not_have_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene("a", "b")
    scene.resync._caches[0] = Cache("FinetunePolicy", "", list, cluster=True)

    async def versions(kind: str, namespace: str, selector: str) -> dict[str, int]:
        scene.lists.asked.append((kind, namespace, selector))
        raise ApiError(404, "NotFound", "no such kind")

    monkeypatch.setattr(scene.lists, "versions", versions)
    await scene.resync._compare(scene.lists, scene.resync._caches[0])  # type: ignore[arg-type]  # as much as it uses
    assert scene.lists.asked == [("FinetunePolicy", "", "")]
    assert scene.resync.synced


async def test_what_is_deleted_between_list_and_look_is_owed_by_nobody() -> None:
    scene = Scene()
    scene.lists.there = {"1": 6}
    await scene.look()
    scene.lists.there = {}
    await scene.look()
    assert scene.resync.overdue() == 0.0


def body(version: int, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": str(version)}, "status": {"version": version}}


def test_a_write_counts_until_the_watch_shows_it() -> None:
    echoes = Echoes()
    assert echoes.newest(KEY, body(5)) == body(5)
    echoes.wrote(KEY, body(7))
    assert echoes.newest(KEY, body(5)) == body(7)
    assert echoes.heard(KEY, body(6)), "older than what was written: no news"
    assert echoes.newest(KEY, body(6)) == body(7)
    assert not echoes.heard(KEY, body(8)), "somebody else wrote"
    assert echoes.newest(KEY, body(6)) == body(6), "it was seen: the watch is right from now on"


@pytest.mark.parametrize("shown", [None, body(3, uid="another")])
def test_a_job_that_is_gone_or_another_one_is_not_brought_back_by_a_write(shown: dict[str, Any] | None) -> None:
    echoes = Echoes()
    echoes.wrote(KEY, body(7))
    assert echoes.newest(KEY, shown) == shown


def test_caches_keep_what_is_read_and_no_more() -> None:
    limits = {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "4", "nvidia.com/mig-1g.5gb": 2, "example.com/gpus": 8}
    pod = {"metadata": {"name": "p", "managedFields": [1]}, "spec": {"containers": [{"resources": {"limits": limits}}]}}
    assert slim(pod) == {"metadata": {"name": "p"}, "spec": {"gpus": 6.0}}
    job = {"metadata": {"name": "j"}, "spec": {"suspend": True, "template": {"spec": {}}}}
    assert slim(job)["spec"] == {"suspend": True}
