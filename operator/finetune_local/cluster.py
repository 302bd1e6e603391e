"""The local cluster: API server, Job controller, node and S3 server, and what else is to run with them."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from finetune_local import processes
from finetune_local.children import Child, ChildError, Command, inherited
from finetune_local.client import NAMESPACES, SECRETS, ApiClient, ApiError, Object, wait_ready
from finetune_local.node.node import NodeSettings
from finetune_local.parts import API_SERVER, JOB_CONTROLLER, NODE, PARTS, PartSettings, command
from finetune_local.s3 import Credentials, S3Server, free_port

logger = logging.getLogger(__name__)

S3 = "s3"
BUCKET = "finetune"
STORAGE_SECRET = "finetune-storage"  # noqa: S105  (its name)


@dataclass(frozen=True)
class ClusterSettings:
    """How a local cluster is made.

    `port`, `s3_port`: 0 chooses free ones. `separate`: which of `apiserver`, `job-controller` and `node` are child
    processes, that can be killed and started again; the S3 server always is one. `persistent`: the objects survive
    in the state folder. `pod_backoff`: as in `JobController`, a tenth of Kubernetes' because somebody is waiting.
    `services`: commands that run with the cluster, such as the operator; they find KUBECONFIG in their environment,
    and their early end is the cluster's failure.
    """

    port: int = 0
    s3_port: int = 0
    separate: frozenset[str] = frozenset()
    persistent: bool = False
    pod_backoff: float = 1.0
    node: NodeSettings = field(default_factory=NodeSettings)
    credentials: Credentials | None = None
    services: Sequence[Command] = ()


@dataclass
class Running:
    """A part at work: how it is stopped, what ends when it fails, and its process where it is one of its own."""

    stop: Callable[[], Awaitable[None]]
    failure: asyncio.Future[None]
    child: Child | None = None


class LocalCluster:
    """A cluster of one machine below `state`. Use as an async context manager.

    Ready to use within the context: `url`, `kubeconfig` (a file), `s3` (its endpoint, credentials, buckets), the
    namespace `default` with the Secret `finetune-storage`, and `client`.
    """

    def __init__(self, state: Path, settings: ClusterSettings | None = None) -> None:
        self.state = state.absolute()
        self.settings = settings or ClusterSettings()
        unknown = self.settings.separate - set(PARTS)
        if unknown:
            raise ValueError(f"separate: no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
        self._family = processes.new_family()
        self._parts: dict[str, Running] = {}
        self._stack = AsyncExitStack()
        self._part_settings = PartSettings(
            port=self.settings.port or free_port(),
            state=self.state,
            persistent=self.settings.persistent,
            pod_backoff=self.settings.pod_backoff,
            node=self.settings.node,
        )
        self.url = self._part_settings.url
        self.kubeconfig = self.state / "kubeconfig"
        credentials = self.settings.credentials or Credentials.kept(self.state / "s3" / "credentials.json")
        self.s3 = S3Server(self.state / "s3", credentials, port=self.settings.s3_port, family=self._family)
        self.bucket = BUCKET
        self.client = ApiClient(self.url)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def wait(self) -> None:
        """Return only by raising: the failure of the first part or service that ends by itself."""
        while True:
            watched = {running.failure for running in self._parts.values()}
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for failure in done:
                # A part that was killed on purpose is no longer among them.
                if any(failure is running.failure for running in self._parts.values()):
                    failure.result()

    async def stop(self) -> None:
        """Stop everything, the newest first. Safe to call twice. Raises what a part failed of meanwhile."""
        async with AsyncExitStack() as last:
            last.push_async_callback(self._stack.aclose)
            last.push_async_callback(self.client.close)
            for name in self._parts:
                last.push_async_callback(self._stop_part, name)

    async def add_namespace(self, name: str) -> None:
        """Make a namespace, and in it the Secret with the S3 server's keys."""
        await self._create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await self._make_secret(name)

    async def kill(self, name: str) -> None:
        """SIGKILL a part or service that is a process of its own. Raises ChildError for one that is not."""
        child = self._child(name)
        # First: this end is no failure.
        self._parts.pop(name).failure.cancel()
        await child.kill()

    async def restart(self, name: str) -> None:
        """Start a part or service again, after `kill` or instead of the one that runs."""
        if name in self._parts:
            await self._stop_part(name)
        service = next((item for item in self.settings.services if item.name == name), None)
        if service is not None:
            await self._start_child(self._with_kubeconfig(service))
        elif name == S3:
            await self._start_s3()
        else:
            await self._start_part(name)

    def pid(self, name: str) -> int:
        """The process id of a part or service that is a process of its own."""
        return self._child(name).pid

    async def _start(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        await self._stack.enter_async_context(processes.Watchdog(self._family))
        self.s3.make_bucket(self.bucket)
        await asyncio.gather(self._start_s3(), self._start_part(API_SERVER))
        await wait_ready(self.client)
        self.kubeconfig.write_text(yaml.safe_dump(kubeconfig(self.url)))
        await self._make_secret("default")
        await asyncio.gather(self._start_part(JOB_CONTROLLER), self._start_part(NODE))
        for service in self.settings.services:
            await self._start_child(self._with_kubeconfig(service))

    async def _start_part(self, name: str) -> None:
        if name in self.settings.separate:
            await self._start_child(command(name, self._part_settings))
            return
        stack = AsyncExitStack()
        failure = await stack.enter_async_context(PARTS[name](self._part_settings))
        self._parts[name] = Running(stack.aclose, failure)

    async def _start_s3(self) -> None:
        await self.s3.start()
        self._parts[S3] = Running(self.s3.stop, asyncio.ensure_future(_failure(self.s3.child)), self.s3.child)

    async def _start_child(self, child_command: Command) -> None:
        child = Child(child_command, self.state / "log" / f"{child_command.name}.log", self._family)
        await child.start()
        self._parts[child.name] = Running(child.stop, asyncio.ensure_future(_failure(child)), child)

    async def _stop_part(self, name: str) -> None:
        running = self._parts.pop(name)
        if running.child is not None:
            running.failure.cancel()
        await running.stop()

    def _child(self, name: str) -> Child:
        running = self._parts.get(name)
        if running is None or running.child is None:
            raise ChildError(f"{name} is no running process of its own; name it in ClusterSettings.separate")
        return running.child

    def _with_kubeconfig(self, service: Command) -> Command:
        return replace(service, environment={**inherited(KUBECONFIG=str(self.kubeconfig)), **service.environment})

    async def _make_secret(self, namespace: str) -> None:
        pair = {
            "AWS_ACCESS_KEY_ID": self.s3.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.credentials.secret_key,
        }
        await self._create(
            SECRETS.path(namespace),
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": STORAGE_SECRET, "namespace": namespace},
                "data": {name: base64.b64encode(value.encode()).decode() for name, value in pair.items()},
            },
        )

    async def _create(self, path: str, item: Object) -> None:
        try:
            await self.client.create(path, item)
        except ApiError as error:
            # From an earlier run of a persistent cluster, which had the same keys.
            if error.reason != "AlreadyExists":
                raise


def kubeconfig(url: str) -> Object:
    """A kubeconfig for the API server at `url`, which asks for no credentials."""
    name = "finetune-local"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url}}],
        "users": [{"name": name, "user": {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
        "current-context": name,
    }


async def _failure(child: Child) -> None:
    await child.wait()
    raise child.error()
