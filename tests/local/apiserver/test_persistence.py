"""A killed server comes back with what it had answered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finetune_local.apiserver import ApiServer

from .support import CONFIGMAPS, DEFINITIONS, PODS, WIDGETS, Client, configmap, definition, pod, until, widget


async def start(folder: Path) -> asyncio.subprocess.Process:
    """A server as a process of its own, once it answers."""
    config = folder / "kubeconfig"
    config.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "finetune_local.apiserver"),
        *("--logs-dir", str(folder / "logs"), "--data-dir", str(folder / "data"), "--kubeconfig", str(config)),
        env=os.environ,
        stderr=asyncio.subprocess.DEVNULL,
    )
    for _ in range(400):
        if config.exists() and config.stat().st_size:
            return process
        await asyncio.sleep(0.05)
    process.kill()
    raise AssertionError("the server did not start")


def url_of(folder: Path) -> str:
    return json.loads((folder / "kubeconfig").read_text())["clusters"][0]["cluster"]["server"]


async def test_a_killed_server_comes_back(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    process = await start(tmp_path)
    url = url_of(tmp_path)
    client = Client(url, session)
    await client.made(DEFINITIONS, definition())
    kept = await client.made(WIDGETS, widget("w", a=1))
    await client.made(WIDGETS, widget("gone"))
    await client.delete(f"{WIDGETS}/gone")
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    account = "/api/v1/namespaces/default/serviceaccounts/default/token"
    token = (await client.post(account, asked)).body["status"]["token"]
    answered: list[str] = []

    async def write() -> None:
        for number in range(10_000):
            try:
                reply = await client.post(CONFIGMAPS, configmap(f"c{number}"))
            except aiohttp.ClientError:
                return
            answered.append(reply.body["metadata"]["resourceVersion"])

    writing = asyncio.create_task(write())
    await until(lambda: asyncio.sleep(0), lambda _: len(answered) > 20, seconds=20)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await writing

    process = await start(tmp_path)
    try:
        assert url_of(tmp_path) == url, "the port is the one that clients know"
        assert (await client.get(f"{WIDGETS}/w")).body == kept
        assert (await client.get(f"{WIDGETS}/gone")).code == 404
        present = {o["metadata"]["resourceVersion"] for o in (await client.get(CONFIGMAPS)).body["items"]}
        assert set(answered) <= present, "a write that was answered is lost"
        later = await client.made(CONFIGMAPS, configmap("later"))
        assert int(later["metadata"]["resourceVersion"]) > max(map(int, present))
        resumed = await client.get(CONFIGMAPS, watch="true", resourceVersion=answered[0])
        assert (resumed.body["type"], resumed.body["object"]["code"]) == ("ERROR", 410), "a client has to list again"
        assert (await Client(url, session, token).get("/api")).code == 200
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_unfinished_deletions_go_on(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with ApiServer(logs_dir=tmp_path, data_dir=tmp_path / "data") as server:
        client = Client(server.url, session)
        owner = await client.made(CONFIGMAPS, configmap("owner"))
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        body: dict[str, Any] = pod("p", nodeName="n")
        body["metadata"]["ownerReferences"] = [{**reference, "blockOwnerDeletion": True}]
        await client.made(PODS, body)
        await client.delete(f"{CONFIGMAPS}/owner", {"propagationPolicy": "Foreground"})
    async with ApiServer(logs_dir=tmp_path, data_dir=tmp_path / "data") as server:
        client = Client(server.url, session)
        await until(lambda: client.get(f"{PODS}/p"), lambda r: "deletionTimestamp" in r.body["metadata"])
        await client.delete(f"{PODS}/p", gracePeriodSeconds="0")
        await client.gone(f"{CONFIGMAPS}/owner")


async def test_a_taken_port_is_said(tmp_path: Path) -> None:
    async with ApiServer(logs_dir=tmp_path, data_dir=tmp_path / "one") as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with ApiServer(port=port, logs_dir=tmp_path):
                pass
