"""The operator itself on the stand-in: a queue, several pods, a deadline of waiting, and what is left at the end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from finetune_api.crd import crd
from finetune_local.children import Command
from finetune_local.client import EVENTS, JOBS, ApiClient, Object, Resource
from finetune_local.cluster import ClusterSettings, LocalCluster
from finetune_local.node.images import Image
from finetune_local.node.node import NodeSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")
IMAGE = "trainer:test"
FINETUNE_JOBS = Resource("finetune.dev/v1alpha1", "finetunejobs", "FinetuneJob")
DEFINITIONS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
SERVICES = Resource("v1", "services", "Service")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiClient]:
    """A cluster with the operator, whose trainer image does nothing."""
    image = Image(entrypoint=(sys.executable, str(Path(__file__).parents[3] / "bench" / "noop_trainer.py")))
    settings = {"FINETUNE_TRAINER_IMAGE": IMAGE, "FINETUNE_LIGHT_CPU": "10m", "FINETUNE_DEFAULT_CPU": "10m"}
    operator = Command("operator", [sys.executable, "-m", "finetune_operator"], settings)
    state = tmp_path_factory.mktemp("operation") / "state"
    cluster_settings = ClusterSettings(node=NodeSettings(images={IMAGE: image}), services=[operator])
    async with LocalCluster(state, cluster_settings) as cluster:
        await cluster.client.create(DEFINITIONS.path(), crd())
        yield cluster.client


def job(name: str, **fields: Any) -> Object:
    """LoRA in two pods, and nothing after it."""
    data = {
        "name": "train",
        "loadDatasetConfig": {"dataFiles": ["s3://bucket/data.jsonl"]},
        "preProcessDataConfig": {"textCols": ["prompt"]},
    }
    spec = {
        "inputModel": {"modelPath": "s3://bucket/model"},
        "dataConfigs": [data],
        "systems": [{"name": "two", "nodes": 2, "resources": {"requests": {"cpu": "10m"}}}],
        "passes": [{"name": "lora", "type": "LoRA", "config": {"trainDataConfig": "train"}}],
        "engine": {"host": "two"},
        "storage": {"uri": "s3://bucket/out"},
        **fields,
    }
    return {
        "apiVersion": FINETUNE_JOBS.api_version,
        "kind": FINETUNE_JOBS.kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


async def status_when(client: ApiClient, name: str, holds: Callable[[Object], Any], seconds: float = 60) -> Object:
    """The job's status once it `holds`."""
    end = time.monotonic() + seconds
    status: Object = {}
    while time.monotonic() < end:
        status = (await client.get(FINETUNE_JOBS.path("default", name))).get("status") or {}
        if status and holds(status):
            return status
        await asyncio.sleep(0.1)
    raise AssertionError(f"not seen in {seconds} s; last: {status}")


def phase(word: str) -> Callable[[Object], bool]:
    return lambda status: status.get("phase") == word


async def jobs_of(client: ApiClient, name: str) -> list[Object]:
    return list((await client.get(JOBS.path("default"), labelSelector=f"finetune.dev/job={name}"))["items"])


async def none_left(client: ApiClient, resource: Resource) -> None:
    """Return once nothing of this kind is the queued job's."""
    async with asyncio.timeout(60):
        while (await client.get(resource.path("default"), labelSelector="finetune.dev/job=queued"))["items"]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def let_go(client: ApiClient, name: str) -> None:
    """What Kueue does when it admits: the suspended Jobs of the queue may run."""
    while True:
        for item in await jobs_of(client, name):
            if item["spec"].get("suspend"):
                await client.patch(JOBS.path("default", item["metadata"]["name"]), {"spec": {"suspend": False}})
        await asyncio.sleep(0.1)


async def test_a_queued_job_of_several_pods_runs_and_is_cleared_away(client: ApiClient) -> None:
    await client.create(FINETUNE_JOBS.path("default"), job("queued", queueName="team", ttlSecondsAfterFinished=2))
    status = await status_when(client, "queued", phase("Queued"))
    assert "this cluster has no Kueue" in status["message"]
    admitting = asyncio.create_task(let_go(client, "queued"))
    status = await status_when(client, "queued", phase("Succeeded"))
    admitting.cancel()
    (training,) = (item for item in await jobs_of(client, "queued") if "-lora-" in item["metadata"]["name"])
    assert (training["spec"]["completions"], training["status"]["succeeded"]) == (2, 2)
    services = (await client.get(SERVICES.path("default"), labelSelector="finetune.dev/job=queued"))["items"]
    assert [item["spec"]["clusterIP"] for item in services] == ["None"]
    told = {
        event["reason"]
        for event in (await client.get(EVENTS.path("default")))["items"]
        if event["involvedObject"]["name"] == "queued"
    }
    assert {"Queued", "StageStarted", "StageSucceeded", "ArtifactsPublished"} <= told
    await none_left(client, JOBS)
    after = await status_when(client, "queued", phase("Succeeded"))
    assert after == status
    # With the FinetuneJob goes what it owns.
    await client.delete(FINETUNE_JOBS.path("default", "queued"))
    await none_left(client, SERVICES)


async def test_a_queue_that_never_lets_go_ends_the_wait(client: ApiClient) -> None:
    await client.create(FINETUNE_JOBS.path("default"), job("patient", queueName="team", maxQueueSeconds=2))
    status = await status_when(client, "patient", phase("Failed"))
    (succeeded,) = (item for item in status["conditions"] if item["type"] == "Succeeded")
    assert succeeded["reason"] == "QueueTimeout"
    # Raised, it goes on.
    raised = {"spec": {"maxQueueSeconds": 3600}}
    await client.patch(FINETUNE_JOBS.path("default", "patient"), raised)
    await status_when(client, "patient", phase("Queued"))
    admitting = asyncio.create_task(let_go(client, "patient"))
    await status_when(client, "patient", phase("Succeeded"))
    admitting.cancel()
