"""Lists and watches: selection, resuming, bookmarks, pages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.apiserver import store as store_module
from finetune_local.apiserver.selectors import parse_label_selector

from .support import CONFIGMAPS, PODS, Client, configmap, pod, until


def labelled(name: str, **labels: str) -> dict[str, Any]:
    body = configmap(name)
    body["metadata"]["labels"] = labels
    return body


def seen(events: list[Any]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


async def watching(client: Client, path: str, **query: str) -> tuple[list[Any], asyncio.Task[None]]:
    events: list[Any] = []
    task = asyncio.create_task(client.watch(path, events, **query))
    await asyncio.sleep(0.1)
    return events, task


async def expect(events: list[Any], wanted: list[tuple[str, str]]) -> None:
    async def now() -> list[tuple[str, str]]:
        return seen(events)

    await until(now, lambda found: found == wanted)


async def test_a_watch_tells_what_is_there_and_what_changes(client: Client) -> None:
    await client.made(CONFIGMAPS, configmap("a"))
    events, task = await watching(client, CONFIGMAPS, timeoutSeconds="5")
    await client.made(CONFIGMAPS, configmap("b"))
    await client.patch(f"{CONFIGMAPS}/b", {"data": {"x": "1"}})
    await client.delete(f"{CONFIGMAPS}/b")
    await expect(events, [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")])
    last = events[-1]["object"]
    assert last["data"] == {"x": "1"}
    assert int(last["metadata"]["resourceVersion"]) > int(events[-2]["object"]["metadata"]["resourceVersion"])
    task.cancel()


async def test_a_watch_goes_on_where_the_last_one_ended(client: Client) -> None:
    await client.made(CONFIGMAPS, configmap("a"))
    version = (await client.get(CONFIGMAPS)).body["metadata"]["resourceVersion"]
    await client.made(CONFIGMAPS, configmap("b"))
    await client.delete(f"{CONFIGMAPS}/b")
    events: list[Any] = []
    await client.watch(CONFIGMAPS, events, resourceVersion=version, timeoutSeconds="1")
    assert seen(events) == [("ADDED", "b"), ("DELETED", "b")]


async def test_an_object_enters_and_leaves_a_selection(client: Client) -> None:
    events, task = await watching(client, CONFIGMAPS, labelSelector="team=a", timeoutSeconds="5")
    await client.made(CONFIGMAPS, labelled("x", team="b"))
    await client.patch(f"{CONFIGMAPS}/x", {"metadata": {"labels": {"team": "a"}}})
    await client.patch(f"{CONFIGMAPS}/x", {"data": {"k": "v"}})
    await client.patch(f"{CONFIGMAPS}/x", {"metadata": {"labels": {"team": "b"}}})
    await client.delete(f"{CONFIGMAPS}/x")
    await client.made(CONFIGMAPS, labelled("y", team="a"))
    await expect(events, [("ADDED", "x"), ("MODIFIED", "x"), ("DELETED", "x"), ("ADDED", "y")])
    left = events[2]["object"]["metadata"]
    assert left["labels"] == {"team": "a"}
    assert int(left["resourceVersion"]) > int(events[1]["object"]["metadata"]["resourceVersion"])
    task.cancel()


async def test_field_selectors_of_pods(client: Client) -> None:
    events, task = await watching(client, PODS, fieldSelector="status.phase=Running", timeoutSeconds="5")
    await client.made(PODS, pod("p"))
    await client.patch(f"{PODS}/p/status", {"status": {"phase": "Running"}})
    await client.patch(f"{PODS}/p/status", {"status": {"phase": "Failed"}})
    await expect(events, [("ADDED", "p"), ("DELETED", "p")])
    task.cancel()
    for selector, names in (
        ("metadata.name=p", ["p"]),
        ("metadata.name!=p", []),
        ("status.phase=Failed,spec.nodeName=", ["p"]),
        ("spec.nodeName=n1", []),
    ):
        found = (await client.get(PODS, fieldSelector=selector)).body["items"]
        assert [item["metadata"]["name"] for item in found] == names, selector
    refused = await client.get(PODS, fieldSelector="spec.image=x")
    assert (refused.code, refused.message) == (400, 'field label not supported: "spec.image"')


async def test_bookmarks(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_local.apiserver.watching._BOOKMARK_SECONDS", 0.1)
    await client.made(CONFIGMAPS, configmap("a"))
    initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    events, task = await watching(client, CONFIGMAPS, allowWatchBookmarks="true", timeoutSeconds="5", **initial)
    await asyncio.sleep(0.4)
    task.cancel()
    assert [event["type"] for event in events][:3] == ["ADDED", "BOOKMARK", "BOOKMARK"]
    end, later = events[1]["object"], events[2]["object"]
    assert end["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert "annotations" not in later["metadata"]
    assert later["kind"] == "ConfigMap"
    silent: list[Any] = []
    await client.watch(CONFIGMAPS, silent, resourceVersion=later["metadata"]["resourceVersion"], timeoutSeconds="1")
    assert silent == []
    refused = await client.get(CONFIGMAPS, watch="true", sendInitialEvents="true")
    assert refused.code == 422


async def test_what_is_forgotten_cannot_be_watched(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY", 4)
    version = (await client.get(CONFIGMAPS)).body["metadata"]["resourceVersion"]
    for number in range(10):
        await client.made(CONFIGMAPS, configmap(f"c{number}"))
    for old in ("1", version, "999999"):
        gone = await client.get(CONFIGMAPS, watch="true", resourceVersion=old)
        assert (gone.code, gone.body["type"]) == (200, "ERROR"), "as Kubernetes' own watch cache says it"
        assert (gone.body["object"]["code"], gone.body["object"]["reason"]) == (410, "Expired")
    recent = (await client.get(f"{CONFIGMAPS}/c8")).body["metadata"]["resourceVersion"]
    events: list[Any] = []
    await client.watch(CONFIGMAPS, events, resourceVersion=recent, timeoutSeconds="1")
    assert seen(events) == [("ADDED", "c9")]


async def test_a_watch_of_all_namespaces_and_of_one(client: Client) -> None:
    other = CONFIGMAPS.replace("default", "kube-public")
    one, first = await watching(client, CONFIGMAPS, timeoutSeconds="5")
    every, second = await watching(client, "/api/v1/configmaps", timeoutSeconds="5")
    await client.made(other, configmap("b"))
    await client.made(CONFIGMAPS, configmap("a"))
    await expect(every, [("ADDED", "b"), ("ADDED", "a")])
    assert seen(one) == [("ADDED", "a")]
    first.cancel()
    second.cancel()


async def test_pages(client: Client) -> None:
    for name in "edcba":
        await client.made(CONFIGMAPS, configmap(name))
    names: list[str] = []
    query = {"limit": "2"}
    pages = 0
    while pages < 9:
        pages += 1
        reply = (await client.get("/api/v1/configmaps", **query)).body
        names += [item["metadata"]["name"] for item in reply["items"]]
        if "continue" not in reply["metadata"]:
            break
        query["continue"] = reply["metadata"]["continue"]
    assert (pages, names) == (3, list("abcde"))
    first = (await client.get(CONFIGMAPS, limit="2")).body["metadata"]
    assert first["remainingItemCount"] == 3
    wrong = {"continue": "!!"}
    assert (await client.get(CONFIGMAPS, limit="2", **wrong)).code == 400
    assert (await client.get(CONFIGMAPS, limit="x")).code == 400


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("a in (b, c)", {"a": "c"}, True),
        ("a notin (b,c),d", {"d": "1"}, True),
        ("a notin (b,c)", {"a": "b"}, False),
        ("a=", {"a": ""}, True),
        ("x.io/k in (v),!gone", {"x.io/k": "v"}, True),
        ("n>3", {"n": "4"}, True),
        ("n<3", {"n": "4"}, False),
        ("a=b,c=d", {"a": "b"}, False),
    ],
)
def test_label_selectors(text: str, labels: dict[str, str], matches: bool) -> None:
    assert parse_label_selector(text).matches({"metadata": {"labels": labels}}) is matches


async def test_a_selector_that_is_none(client: Client) -> None:
    for text in ("a in b", "a=b=c", "=b", "a in (b", "é=1"):
        reply = await client.get(CONFIGMAPS, labelSelector=text)
        assert (reply.code, reply.body["reason"]) == (400, "BadRequest"), text


_key = st.from_regex(r"[a-z][a-z0-9]{0,4}", fullmatch=True)


@given(st.dictionaries(_key, _key, max_size=4), st.dictionaries(_key, _key, min_size=1, max_size=3))
def test_an_equality_selector_is_a_subset_test(labels: dict[str, str], wanted: dict[str, str]) -> None:
    text = ",".join(f"{key}={value}" for key, value in wanted.items())
    assert parse_label_selector(text).matches({"metadata": {"labels": labels}}) is (wanted.items() <= labels.items())
    sets = ",".join(f"{key} in ({value},zzz)" for key, value in wanted.items())
    if "zzz" not in labels.values():
        assert parse_label_selector(sets).matches({"metadata": {"labels": labels}}) is (
            wanted.items() <= labels.items()
        )
