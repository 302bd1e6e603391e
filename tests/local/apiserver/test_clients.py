"""The clients that the product uses: kopf and the `kubernetes` client, on this server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import kopf
import pytest
from kubernetes import aio

from finetune_local.apiserver import ApiServer

from .support import CONFIGMAPS, DEFINITIONS, PODS, WIDGETS, Client, configmap, definition, pod, until, widget


@asynccontextmanager
async def running(server: ApiServer, registry: kopf.OperatorRegistry) -> AsyncIterator[None]:
    """An operator in this loop, until the block ends."""
    ready, stop = asyncio.Event(), asyncio.Event()
    settings = kopf.OperatorSettings()
    settings.posting.loggers = False

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=server.url)

    task = asyncio.create_task(
        kopf.operator(
            registry=registry, settings=settings, standalone=True, clusterwide=True, ready_flag=ready, stop_flag=stop
        )
    )
    try:
        await asyncio.wait_for(ready.wait(), 10)
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 15)


async def test_kopf_watches_indexes_and_writes_nothing(server: ApiServer, client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    registry = kopf.OperatorRegistry()
    events: list[tuple[str | None, str]] = []
    sizes: dict[str, Any] = {}

    @kopf.index("acme.io", "v1", "widgets", registry=registry, id="by_size")
    def by_size(name: str, spec: kopf.Spec, **_: Any) -> dict[Any, str]:
        return {spec.get("size"): name}

    @kopf.on.event("acme.io", "v1", "widgets", registry=registry)
    def seen(type: str | None, name: str, by_size: kopf.Index[Any, Any], **_: Any) -> None:
        events.append((type, name))
        sizes.update({key: sorted(by_size[key]) for key in by_size})

    await client.made(WIDGETS, widget("before", size=1))
    async with running(server, registry):
        await until(lambda: asyncio.sleep(0), lambda _: (None, "before") in events, 10)
        made = await client.made(WIDGETS, widget("w", size=2))
        await client.patch(f"{WIDGETS}/w", {"spec": {"size": 3}})
        await client.delete(f"{WIDGETS}/w")
        expected = [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")]
        await until(lambda: asyncio.sleep(0), lambda _: events[-3:] == expected, 10)
    assert sizes[1] == ["before"]
    assert sizes[3] == ["w"]
    assert "finalizers" not in made["metadata"]
    assert "annotations" not in (await client.get(f"{WIDGETS}/before")).body["metadata"]


async def test_kopf_handles_creation_timers_and_deletion(server: ApiServer, client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    registry = kopf.OperatorRegistry()
    ticks: list[float] = []
    deleted: list[str] = []

    @kopf.on.create("acme.io", "v1", "widgets", registry=registry)
    async def create(body: kopf.Body, patch: kopf.Patch, name: str, **_: Any) -> None:
        child = configmap(f"{name}-child")
        kopf.adopt(child, owner=body)
        assert (await client.post(CONFIGMAPS, child)).code == 201
        patch.status["phase"] = "Made"
        kopf.info(body, reason="Made", message="the child is there")

    @kopf.on.update("acme.io", "v1", "widgets", field="spec.size", registry=registry)
    def resize(new: Any, patch: kopf.Patch, **_: Any) -> None:
        patch.status["size"] = new

    @kopf.timer("acme.io", "v1", "widgets", interval=0.1, registry=registry)
    def tick(**_: Any) -> None:
        ticks.append(time.monotonic())

    @kopf.on.delete("acme.io", "v1", "widgets", registry=registry)
    def delete(name: str, **_: Any) -> None:
        deleted.append(name)

    async with running(server, registry):
        await client.made(WIDGETS, widget("w", size=1))
        handled = await until(
            lambda: client.get(f"{WIDGETS}/w"), lambda r: r.body.get("status", {}).get("phase") == "Made", 10
        )
        assert handled.body["metadata"]["finalizers"] == ["kopf.zalando.org/KopfFinalizerMarker"]
        assert (await client.get(f"{CONFIGMAPS}/w-child")).code == 200
        await client.patch(f"{WIDGETS}/w", {"spec": {"size": 5}})
        await until(lambda: client.get(f"{WIDGETS}/w"), lambda r: r.body["status"].get("size") == 5, 10)
        await until(lambda: asyncio.sleep(0), lambda _: len(ticks) > 2, 10)
        events = await until(
            lambda: client.get("/api/v1/namespaces/default/events", fieldSelector="involvedObject.name=w"),
            lambda reply: any(e["reason"] == "Made" for e in reply.body["items"]),
            10,
        )
        assert events.code == 200
        await client.delete(f"{WIDGETS}/w")
        await client.gone(f"{WIDGETS}/w", 10)
        await client.gone(f"{CONFIGMAPS}/w-child", 10)
    assert deleted == ["w"]


@pytest.fixture
async def api(server: ApiServer) -> AsyncIterator[aio.client.ApiClient]:
    async with aio.client.ApiClient(aio.client.Configuration(host=server.url)) as opened:
        yield opened


async def test_the_async_client(api: aio.client.ApiClient) -> None:
    core = aio.client.CoreV1Api(api)
    made = await core.create_namespaced_pod("default", pod("p", nodeName="n"))
    assert made.status.phase == "Pending"
    seen: list[str] = []

    async def follow() -> None:
        stream = aio.watch.Watch().stream(core.list_namespaced_pod, "default", timeout_seconds=20)
        async for event in stream:
            seen.append(event["type"])
            if event["type"] == "DELETED":
                return

    task = asyncio.create_task(follow())
    await until(lambda: asyncio.sleep(0), lambda _: seen == ["ADDED"], 10)
    await core.patch_namespaced_pod_status("p", "default", {"status": {"phase": "Running"}})
    deleted = await core.delete_namespaced_pod("p", "default", grace_period_seconds=0)
    assert deleted.metadata.name == "p"
    await asyncio.wait_for(task, 5)
    assert seen == ["ADDED", "MODIFIED", "DELETED"]
    with pytest.raises(aio.client.ApiException) as missing:
        await core.read_namespaced_pod("p", "default")
    assert missing.value.status == 404


async def test_many_objects(server: ApiServer, client: Client, session: aiohttp.ClientSession) -> None:
    """A thousand custom resources with three watchers; a write costs the same whatever is there already."""
    await client.made(DEFINITIONS, definition())
    watched: list[list[Any]] = [[] for _ in range(3)]
    queries = ({}, {"labelSelector": "half=a"}, {"fieldSelector": "metadata.namespace=default"})
    tasks = [
        asyncio.create_task(client.watch(WIDGETS, events, timeoutSeconds="60", **query))
        for events, query in zip(watched, queries, strict=True)
    ]
    await asyncio.sleep(0.2)
    spent: list[float] = []
    for number in range(1000):
        body = widget(f"w{number}", size=number)
        body["metadata"]["labels"] = {"half": "a" if number % 2 else "b"}
        started = time.process_time()
        await client.made(WIDGETS, body)
        spent.append(time.process_time() - started)

    await until(lambda: asyncio.sleep(0), lambda _: [len(w) for w in watched] == [1000, 500, 1000], 20)
    for task in tasks:
        task.cancel()
    first, last = sum(spent[:200]), sum(spent[-200:])
    assert last < 3 * first + 0.2, f"the first 200 took {first:.2f} s of CPU, the last {last:.2f} s"
    assert sum(spent) < 20, "both ends of the connection are in this process"
    listed = (await client.get(WIDGETS)).body
    assert len(listed["items"]) == 1000
    assert (await client.get(PODS)).body["items"] == []
