"""The node: registers itself, takes the pods that are bound to it, runs and cleans them up."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from finetune_local import processes
from finetune_local.client import MERGE, NODES, PODS, ApiClient, ApiError, Object, may_pass, persist, uid_of
from finetune_local.events import EventRecorder
from finetune_local.informer import DELETED, Informer
from finetune_local.node.environment import NodeFacts
from finetune_local.node.images import DEFAULT_IMAGES, Images
from finetune_local.node.memory import MemoryGuard
from finetune_local.node.pod import Host, PodRunner
from finetune_local.node.sandbox import Folders, Sandbox, leftovers, sweep
from finetune_local.node.scheduler import Scheduler
from finetune_operator.times import rfc3339

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30.0
ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class NodeSettings:
    """What the node claims to have, and how it behaves.

    `cpus` and `memory` (bytes) default to the machine's; CPUs are offered `cpu_overcommit` times, because nothing
    enforces their limits and a laptop's few should not make jobs wait. `extended`: further resources by name and
    number, such as nvidia.com/gpu. `crash_backoff`: seconds before a container is restarted, doubled each time
    (Kubernetes: 10). `memory_interval`: seconds between looks at memory limits.
    """

    name: str = "local"
    cpus: float | None = None
    memory: int | None = None
    pods: int = 110
    cpu_overcommit: float = 8.0
    extended: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    images: Images = field(default_factory=lambda: DEFAULT_IMAGES)
    crash_backoff: float = 10.0
    memory_interval: float = 1.0


class Node:
    """Schedules and runs the pods of the API server that `client` speaks to.

    `folder` holds sandboxes and claims, `logs` is where the API server reads pod logs.
    """

    def __init__(self, client: ApiClient, folder: Path, logs: Path, settings: NodeSettings | None = None) -> None:
        self._settings = settings or NodeSettings()
        self._client = client
        self._object = node_object(self._settings)
        self._scheduler = Scheduler(client, self._object)
        self._events = EventRecorder(client, "kubelet", self._settings.name)
        self._pods = Informer(client, PODS, self._pod_changed)
        self._runners: dict[str, PodRunner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        family = processes.new_family()
        self._family = family
        self._host = Host(
            client=client,
            events=self._events,
            memory=MemoryGuard(family, self._settings.memory_interval),
            facts=NodeFacts(self._settings.name, ADDRESS, self._object["status"]["allocatable"]),
            images=self._settings.images,
            folders=Folders(folder.absolute() / "pods", folder.absolute() / "claims", logs.absolute()),
            family=family,
            crash_backoff=self._settings.crash_backoff,
        )
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled; then all processes of all pods are killed."""
        async with processes.Watchdog(self._family), asyncio.TaskGroup() as tasks:
            try:
                await persist(self._register)
                left = leftovers(self._host.folders)
                for work in (self._events.run, self._host.memory.run, self._pods.run, self._scheduler.run):
                    tasks.create_task(work())
                tasks.create_task(self._heartbeat())
                await self._pods.synced.wait()
                await asyncio.to_thread(sweep, left, {uid_of(pod) for pod in self._pods})
                self.ready.set()
                await asyncio.Event().wait()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _pod_changed(self, kind: str, pod: Object) -> None:
        uid = uid_of(pod)
        runner = self._runners.get(uid)
        ours = pod["spec"].get("nodeName") == self._settings.name
        if kind == DELETED:
            self._scheduler.pod_gone(uid)
            if runner is not None:
                runner.stop(0)
            elif ours:
                self._spawn(self._clean(pod))
            return
        self._scheduler.pod_changed(pod)
        if not ours:
            return
        if runner is not None:
            runner.update(pod)
        elif pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            self._runners[uid] = PodRunner(self._host, pod)
            self._spawn(self._live(uid, self._runners[uid]))
        elif _waits_for_node(pod):
            self._spawn(self._delete(pod))

    async def _live(self, uid: str, runner: PodRunner) -> None:
        try:
            await runner.run()
        finally:
            del self._runners[uid]
        pod = self._pods.get(uid)
        if pod is None:
            await asyncio.to_thread(runner.sandbox.clean)
        elif "deletionTimestamp" in pod["metadata"]:
            await self._delete(pod)

    async def _delete(self, pod: Object) -> None:
        """Let go of a pod that was asked to be deleted and has ended."""
        metadata = pod["metadata"]
        path = PODS.path(metadata["namespace"], metadata["name"])
        try:
            await persist(lambda: self._client.delete(path, uid=metadata["uid"], grace=0))
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def _clean(self, pod: Object) -> None:
        sandbox = Sandbox(self._host.folders, pod, self._host.facts, self._family)
        await asyncio.to_thread(sandbox.clean)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # One pod's trouble is in its status; the node goes on for the others.
            logger.error("a pod's task failed", exc_info=error)

    async def _register(self) -> None:
        try:
            await self._client.create(NODES.path(), self._object)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        await self._report()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self._report()
            except ApiError as error:
                if error.status != 404:
                    raise
                # The server came back without its memory.
                await persist(self._register)
            except Exception as error:
                if not may_pass(error):
                    raise
                logger.debug("heartbeat not written: %s", error)

    async def _report(self) -> None:
        now = rfc3339(datetime.now(UTC))
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "pods run as processes of this machine",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        status = {**self._object["status"], "conditions": [condition]}
        await self._client.patch(NODES.path(name=self._settings.name, sub="status"), {"status": status}, MERGE)


def node_object(settings: NodeSettings) -> Object:
    """The Node as it is registered."""
    cpus = settings.cpus if settings.cpus is not None else (os.cpu_count() or 1) * settings.cpu_overcommit
    memory = settings.memory if settings.memory is not None else psutil.virtual_memory().total
    resources = {
        "cpu": f"{round(cpus * 1000)}m",
        "memory": f"{memory // 1024}Ki",
        "pods": str(settings.pods),
        **{name: str(number) for name, number in settings.extended.items()},
    }
    system = {"kubernetes.io/os": platform.system().lower(), "kubernetes.io/arch": platform.machine()}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": settings.name,
            "labels": {**system, "kubernetes.io/hostname": settings.name, **settings.labels},
        },
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": ADDRESS},
                {"type": "Hostname", "address": settings.name},
            ],
            "nodeInfo": {
                "kubeletVersion": "v1.32.0-finetune-local",
                "containerRuntimeVersion": "processes://1",
                "operatingSystem": platform.system().lower(),
                "architecture": platform.machine(),
                "kernelVersion": platform.release(),
                "osImage": platform.platform(),
            },
        },
    }


def _waits_for_node(pod: Object) -> bool:
    """Whether the pod's deletion waits for its node, which has nothing of it running."""
    metadata = pod["metadata"]
    return "deletionTimestamp" in metadata and metadata.get("deletionGracePeriodSeconds", 0) > 0
