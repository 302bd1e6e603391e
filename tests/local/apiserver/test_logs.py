"""Pod logs, from the node's files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finetune_local.apiserver import ApiServer

from .support import PODS, Client, pod


class LogFile:
    """A container's log, as the node writes it."""

    def __init__(self, logs: Path, made: dict[str, Any], container: str = "main") -> None:
        metadata = made["metadata"]
        folder = logs / metadata["namespace"] / metadata["name"] / metadata["uid"]
        folder.mkdir(parents=True)
        self._path = folder / f"{container}.log"

    def write(self, text: str) -> None:
        self._path.write_text(text)

    def append(self, text: str) -> None:
        with self._path.open("a") as file:
            file.write(text)

    def age(self, seconds: float) -> None:
        written = self._path.stat().st_mtime - seconds
        os.utime(self._path, (written, written))


@pytest.fixture
async def log(client: Client, tmp_path: Path) -> LogFile:
    """The log of the pod `p`, which has not written yet."""
    return LogFile(tmp_path / "logs", await client.made(PODS, pod("p", nodeName="n")))


async def test_a_pod_that_has_not_started(client: Client, log: LogFile) -> None:
    reply = await client.get(f"{PODS}/p/log")
    assert reply.code == 400
    assert reply.message == 'container "main" in pod "p" is waiting to start: ContainerCreating'
    assert (await client.get(f"{PODS}/none/log")).code == 404
    assert (await client.get(f"{PODS}/p/log", container="other")).message == "container other is not valid for pod p"


async def test_parts_of_a_log(client: Client, log: LogFile) -> None:
    text = "".join(f"line {number}\n" for number in range(1, 101))
    log.write(text)
    assert (await client.get(f"{PODS}/p/log")).body == text
    assert (await client.get(f"{PODS}/p/log", tailLines="2")).body == "line 99\nline 100\n"
    assert (await client.get(f"{PODS}/p/log", tailLines="0")).body == ""
    assert (await client.get(f"{PODS}/p/log", tailLines="500")).body == text
    assert (await client.get(f"{PODS}/p/log", limitBytes="9")).body == "line 1\nli"
    assert (await client.get(f"{PODS}/p/log", tailLines="1", limitBytes="4")).body == "line"
    assert (await client.get(f"{PODS}/p/log", tailLines="x")).code == 400
    stamped = (await client.get(f"{PODS}/p/log", tailLines="1", timestamps="true")).body
    assert stamped.endswith("Z line 100\n")
    log.age(seconds=100)
    assert (await client.get(f"{PODS}/p/log", sinceSeconds="50")).body == ""
    assert (await client.get(f"{PODS}/p/log", sinceSeconds="500", tailLines="1")).body == "line 100\n"


@pytest.mark.parametrize("end", ["\n", ""])
async def test_the_tail_of_a_long_log_is_read_from_its_end(client: Client, log: LogFile, end: str) -> None:
    lines = [f"{number} {'x' * 997}" for number in range(300)]
    log.write("\n".join(lines) + end)
    for count in (1, 65, 66, 131, 300):
        tail = (await client.get(f"{PODS}/p/log", tailLines=str(count))).body
        assert tail == "\n".join(lines[-count:]) + end


async def test_several_containers(client: Client, tmp_path: Path) -> None:
    containers = [{"name": name, "image": "i"} for name in "ab"]
    made = await client.made(PODS, pod("two", containers=containers))
    reply = await client.get(f"{PODS}/two/log")
    assert reply.message == "a container name must be specified for pod two, choose one of: [a b]"
    LogFile(tmp_path / "logs", made, "b").write("of b\n")
    assert (await client.get(f"{PODS}/two/log", container="b")).body == "of b\n"


async def test_following_ends_with_the_pod(
    client: Client, server: ApiServer, session: aiohttp.ClientSession, log: LogFile
) -> None:
    log.write("one\n")
    lines: list[str] = []

    async def follow() -> None:
        async with session.get(f"{server.url}{PODS}/p/log", params={"follow": "true"}) as response:
            lines.extend([line.decode() async for line in response.content])

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.2)
    log.append("two\nthr")
    await asyncio.sleep(0.2)
    log.append("ee\nlast")
    await client.patch(f"{PODS}/p/status", {"status": {"phase": "Succeeded"}})
    await asyncio.wait_for(task, 3)
    assert lines == ["one\n", "two\n", "three\n", "last"]


async def test_following_a_pod_that_is_deleted(client: Client, log: LogFile) -> None:
    log.write("one\n")
    task = asyncio.create_task(client.get(f"{PODS}/p/log", follow="true"))
    await asyncio.sleep(0.2)
    assert not task.done()
    await client.delete(f"{PODS}/p", gracePeriodSeconds="0")
    assert (await asyncio.wait_for(task, 3)).body == "one\n"
