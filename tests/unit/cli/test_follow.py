"""Applying and following on the local API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.crd import crd
from finetune_api.status import Status
from finetune_cli import apply
from finetune_cli.errors import CliError, ExitCode
from finetune_cli.follow import follow
from finetune_local.apiserver import ApiServer
from finetune_local.client import SECRETS, ApiClient

PATH = apply.FINETUNE_JOBS.path("default", "tones")
JOB = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FinetuneJob",
    "metadata": {"name": "tones"},
    "spec": {
        "storage": {"uri": "s3://bucket/jobs"},
        "inputModel": {"modelPath": "s3://bucket/base"},
        "passes": [{"name": "builder", "type": "ModelBuilder", "config": {"precision": "int4"}}],
    },
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ApiClient]:
    async with ApiServer(logs_dir=tmp_path) as server, ApiClient(server.url) as found:
        await apply.apply(found, crd(), apply.CRDS)
        yield found


def status(verdict: str, generation: int = 1, message: str = "") -> dict[str, Any]:
    condition = {
        "type": "Succeeded",
        "status": verdict,
        "reason": "Because",
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": "2026-11-23T10:00:00Z",
    }
    return {"status": {"observedGeneration": generation, "message": message, "conditions": [condition]}}


async def followed(client: ApiClient, job: dict[str, Any], seen: asyncio.Queue[Status]) -> None:
    async for found in follow(client, job):
        seen.put_nowait(found)


async def test_every_status_until_the_last(client: ApiClient) -> None:
    job = await apply.start_job(client, JOB)
    seen: asyncio.Queue[Status] = asyncio.Queue()
    following = asyncio.create_task(followed(client, job, seen))
    messages = []
    for verdict, message in (("Unknown", "begins"), ("Unknown", "goes on"), ("True", "done")):
        await client.patch(f"{PATH}/status", status(verdict, message=message))
        messages.append((await asyncio.wait_for(seen.get(), 5)).message)
    await asyncio.wait_for(following, 5)
    assert messages == ["begins", "goes on", "done"]


async def test_a_status_of_an_earlier_generation_is_no_end(client: ApiClient) -> None:
    job = await apply.start_job(client, JOB)
    await client.patch(f"{PATH}/status", status("False", message="of yesterday"))
    job = await client.patch(PATH, {"spec": {"runId": "again"}})
    seen: asyncio.Queue[Status] = asyncio.Queue()
    following = asyncio.create_task(followed(client, job, seen))
    await client.patch(f"{PATH}/status", status("True", generation=2, message="of today"))
    await asyncio.wait_for(following, 5)
    assert [seen.get_nowait().message for _ in range(seen.qsize())] == ["of today"]


async def test_a_job_that_is_deleted_meanwhile_is_a_failure(client: ApiClient) -> None:
    job = await apply.start_job(client, JOB)
    following = asyncio.create_task(followed(client, job, asyncio.Queue()))
    await asyncio.sleep(0.1)
    await client.delete(PATH)
    with pytest.raises(CliError, match="default/tones was deleted") as caught:
        await asyncio.wait_for(following, 5)
    assert caught.value.code == ExitCode.FAILED


async def test_a_job_of_an_earlier_run_goes_first(client: ApiClient) -> None:
    first = await apply.start_job(client, JOB)
    second = await apply.start_job(client, JOB)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]


async def test_what_the_api_server_refuses_is_said_in_its_words(client: ApiClient) -> None:
    builder = JOB["spec"]["passes"][0]
    twice = {**JOB, "spec": {**JOB["spec"], "passes": [builder, builder]}}
    with pytest.raises(CliError, match=r"refuses tones.*unique names") as caught:
        await apply.start_job(client, twice)
    assert caught.value.code == ExitCode.INVALID


async def test_companions_are_put_in_place_and_other_kinds_refused(client: ApiClient) -> None:
    for value in ("first", "second"):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": value}}
        await apply.apply_companion(client, secret)
    assert (await client.get(SECRETS.path("default", "s")))["data"] == {"key": "c2Vjb25k"}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    with pytest.raises(CliError, match="Deployment d: a job file may hold"):
        await apply.apply_companion(client, deployment)
