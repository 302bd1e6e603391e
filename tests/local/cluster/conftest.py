"""A local cluster for each test, and ways to wait for what happens in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from finetune_local.client import EVENTS, JOBS, PODS, Object, Resource
from finetune_local.cluster import ClusterSettings, LocalCluster
from finetune_local.informer import DELETED, Informer
from finetune_local.node.node import NodeSettings

POLICY = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "NotIn", "values": [0]}},
    ]
}


class Bench:
    """A running cluster with the few moves that tests make again and again."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster, self.client = cluster, cluster.client

    async def run_job(self, name: str, *command: str, pod: Object | None = None, **spec: Any) -> Object:
        """Create a Job of one container `c` that runs `command`; `pod` adds to its pod spec."""
        extra = dict(pod or {})
        container = {"name": "c", "image": "local/any", "command": list(command), **extra.pop("container", {})}
        template = {"spec": {"restartPolicy": "Never", "containers": [container], **extra}}
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"template": template, **spec},
        }
        return await self.client.create(JOBS.path("default"), body)

    async def until(
        self, resource: Resource, predicate: Callable[[Object | None], Any], *, seconds: float = 10, **fields: str
    ) -> Object:
        """The first state of an object of `resource` (chosen by `fields`) that satisfies `predicate`; None: gone."""
        found: asyncio.Future[Object] = asyncio.get_running_loop().create_future()
        seen: list[Object] = []

        def look(kind: str, item: Object) -> None:
            seen.append(item)
            if not found.done() and predicate(None if kind == DELETED else item):
                found.set_result(item)

        selector = ",".join(f"{name}={value}" for name, value in fields.items())
        informer = Informer(self.client, resource, look, namespace="default", field_selector=selector)
        following = asyncio.create_task(informer.run())
        try:
            await informer.synced.wait()
            if not seen and predicate(None):
                return {}
            return await asyncio.wait_for(found, seconds)
        except TimeoutError:
            raise AssertionError(f"not seen in {seconds} s; last state: {seen[-1:]}") from None
        finally:
            following.cancel()

    async def told(self, subject: str, reason: str) -> str:
        """The message of the first event with `reason` about `subject`, or a pod whose name begins so."""

        def fits(event: Object | None) -> bool:
            return (
                event is not None
                and event["reason"] == reason
                and event["involvedObject"]["name"].split("-")[0] == subject
            )

        return (await self.until(EVENTS, fits))["message"]

    async def gone(self, resource: Resource, name: str) -> None:
        """Return once there is no such object."""
        await self.until(resource, lambda item: item is None, **{"metadata.name": name})

    async def job_when(self, name: str, condition: str, *, seconds: float = 10) -> Object:
        """The Job once its `condition` is true."""
        return await self.until(
            JOBS, lambda job: has_condition(job, condition), seconds=seconds, **{"metadata.name": name}
        )

    async def pod_when(self, job: str, predicate: Callable[[Object], Any], *, seconds: float = 10) -> Object:
        """The first pod of `job` that satisfies `predicate`."""

        def ours(pod: Object | None) -> bool:
            return pod is not None and pod["metadata"]["name"].startswith(f"{job}-") and bool(predicate(pod))

        return await self.until(PODS, ours, seconds=seconds)

    async def pods_of(self, job: str) -> list[Object]:
        """The Job's pods as they are now."""
        answer = await self.client.get(PODS.path("default"), labelSelector=f"batch.kubernetes.io/job-name={job}")
        return answer["items"]

    def log_file(self, pod: Object) -> Path:
        """Where the pod's log lies."""
        metadata = pod["metadata"]
        return self.cluster.state / "logs" / metadata["namespace"] / metadata["name"] / metadata["uid"] / "c.log"

    async def log_of(self, pod: Object, **query: str) -> str:
        """A pod's log, through the API server."""
        path = PODS.path("default", pod["metadata"]["name"], "log")
        async with self.client._open().get(self.client.url + path, params=query) as response:
            return await response.text()


async def until(check: Callable[[], Any], seconds: float = 10) -> None:
    """Return once `check()` holds: files and processes tell nobody that they change."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has buried does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def has_condition(item: Object | None, kind: str) -> Object | None:
    """The condition of `item` that is true, if it is."""
    if item is None:
        return None
    conditions = item.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind and entry["status"] == "True"), None)


def phase_is(phase: str) -> Callable[[Object], bool]:
    """Whether a pod is in `phase`."""
    return lambda pod: pod["status"].get("phase") == phase


def waits_for(reason: str) -> Callable[[Object], bool]:
    """Whether a pod's first container waits for `reason`."""

    def check(pod: Object) -> bool:
        statuses = pod["status"].get("containerStatuses", [])
        return bool(statuses) and statuses[0]["state"].get("waiting", {}).get("reason") == reason

    return check


def ending(pod: Object) -> Object:
    """How the pod's first container ended."""
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]


SETTINGS = ClusterSettings(pod_backoff=0.1, node=NodeSettings(crash_backoff=0.1, memory_interval=0.1))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One cluster for all tests of a module: each names its objects differently."""
    async with LocalCluster(tmp_path_factory.mktemp("cluster") / "state", SETTINGS) as cluster:
        yield Bench(cluster)
