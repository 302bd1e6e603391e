"""The cache that follows a server: what it tells when the server forgets, goes away, or answers late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from finetune_local.client import PODS, ApiError, Object
from finetune_local.informer import ADDED, DELETED, MODIFIED, Informer

Script = list[list[Object] | list[tuple[str, Object] | Exception]]


def pod(uid: str, version: int) -> Object:
    return {"metadata": {"uid": uid, "name": uid, "resourceVersion": str(version)}}


class ScriptedClient:
    """Answers lists and watches from prepared ones, in their order; then waits for ever."""

    def __init__(self, lists: list[tuple[int, list[Object]]], watches: list[list[tuple[str, Object] | Exception]]):
        self.lists, self.watches = lists, watches
        self.versions: list[str] = []
        self.finished = asyncio.Event()

    async def get(self, path: str, **query: str) -> Object:
        version, items = self.lists.pop(0)
        return {"metadata": {"resourceVersion": str(version)}, "items": items}

    async def watch(self, path: str, version: str, **query: str) -> AsyncIterator[tuple[str, Object]]:
        self.versions.append(version)
        if not self.watches:
            self.finished.set()
            await asyncio.Event().wait()
        for entry in self.watches.pop(0):
            if isinstance(entry, Exception):
                raise entry
            yield entry


async def follow(client: ScriptedClient) -> tuple[Informer, list[tuple[str, str]]]:
    """The informer after the script, and (type, uid) of all that it told."""
    told: list[tuple[str, str]] = []
    informer = Informer(client, PODS, lambda kind, item: told.append((kind, item["metadata"]["uid"])))  # type: ignore[arg-type]
    task = asyncio.create_task(informer.run())
    await asyncio.wait({task, asyncio.create_task(client.finished.wait())}, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return informer, told


async def test_watch_resumes_from_what_it_saw_last() -> None:
    bookmark = ("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
    client = ScriptedClient([(5, [pod("a", 3)])], [[(MODIFIED, pod("a", 7)), bookmark], [(ADDED, pod("b", 11))]])
    _, told = await follow(client)
    assert told == [(ADDED, "a"), (MODIFIED, "a"), (ADDED, "b")]
    assert client.versions == ["5", "9", "11"]


async def test_forgotten_history_is_listed_again_and_the_difference_told() -> None:
    gone = ApiError(410, "Expired", "too old resource version")
    lists = [(5, [pod("a", 3), pod("b", 4), pod("c", 5)]), (20, [pod("a", 3), pod("b", 15), pod("d", 18)])]
    informer, told = await follow(ScriptedClient(lists, [[gone]]))
    assert told[3:] == [(DELETED, "c"), (MODIFIED, "b"), (ADDED, "d")]
    assert {item["metadata"]["uid"] for item in informer} == {"a", "b", "d"}


@pytest.mark.parametrize("error", [ConnectionResetError(), ApiError(503, "ServiceUnavailable", "starting")])
async def test_server_that_is_away_is_asked_again(error: Exception) -> None:
    _, told = await follow(ScriptedClient([(5, [])], [[error], [(ADDED, pod("a", 6))]]))
    assert told == [(ADDED, "a")]


async def test_refusal_for_good_is_raised() -> None:
    client: Any = ScriptedClient([(5, [])], [[ApiError(403, "Forbidden", "no")]])
    informer = Informer(client, PODS, lambda kind, item: None)
    with pytest.raises(ApiError, match="403 Forbidden"):
        await informer.run()


async def test_own_writes_are_no_news_and_never_bring_back_the_deleted() -> None:
    client: Any = ScriptedClient([(5, [pod("a", 3)])], [])
    informer, _ = await follow(client)
    told: list[str] = []
    informer._on_change = lambda kind, item: told.append(kind)
    assert informer.observe(pod("a", 8))
    informer._take(MODIFIED, pod("a", 8))
    informer._take(MODIFIED, pod("a", 6))
    assert told == []
    assert informer.get("a") == pod("a", 8)
    informer._take(DELETED, pod("a", 9))
    assert not informer.observe(pod("a", 8))
    assert informer.get("a") is None
