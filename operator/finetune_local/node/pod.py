"""One pod's life on the node: volumes, init containers, containers, restarts, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from finetune_local.client import ApiClient, Object, Resource, persist
from finetune_local.events import EventRecorder
from finetune_local.node import environment, objects, volumes
from finetune_local.node.container import KILLED, NOT_STARTED, Container, Launch, StartError
from finetune_local.node.environment import NodeFacts
from finetune_local.node.images import Images
from finetune_local.node.memory import MemoryGuard
from finetune_local.node.publisher import Publisher
from finetune_local.node.sandbox import Folders, Sandbox
from finetune_local.node.status import PodState, pod_status
from finetune_local.node.values import MissingObjectError, Objects, TokenOf

Result = TypeVar("Result")

LONGEST_CRASH_BACKOFF = 300.0
DEFAULT_GRACE = 30


class PodStoppedError(Exception):
    """The pod was told to end while something was waited for."""


@dataclass(frozen=True)
class Host:
    """What the pods of a node share. `family` marks their processes; `crash_backoff` is in seconds."""

    client: ApiClient
    events: EventRecorder
    memory: MemoryGuard
    facts: NodeFacts
    images: Images
    folders: Folders
    family: str
    crash_backoff: float


class PodRunner:
    """Runs one pod to its end: `run` returns once its last status is written."""

    def __init__(self, host: Host, pod: Object) -> None:
        self._host, self._pod = host, pod
        self.sandbox = Sandbox(host.folders, pod, host.facts, host.family)
        spec = pod["spec"]
        self._init = [Container(item) for item in spec.get("initContainers", [])]
        self._main = [Container(item) for item in spec["containers"]]
        self._state = PodState(self._main, self._init, datetime.now(UTC), host.facts.address)
        self._policy = spec.get("restartPolicy", "Always")
        self._stop = asyncio.Event()
        self._kill_timer: asyncio.TimerHandle | None = None
        self._publisher = Publisher(host.client, pod, self._status)
        if "deletionTimestamp" in pod["metadata"]:
            self.update(pod)

    def update(self, pod: Object) -> None:
        """Take in the pod's newer state at the server: its deletion, or a shorter grace for it."""
        self._pod = pod
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata:
            self.stop(metadata.get("deletionGracePeriodSeconds", DEFAULT_GRACE))

    def stop(self, grace: float) -> None:
        """SIGTERM now, SIGKILL after `grace` seconds; asked again, the shorter grace holds."""
        loop = asyncio.get_running_loop()
        if self._kill_timer is None or self._kill_timer.when() > loop.time() + grace:
            if self._kill_timer is not None:
                self._kill_timer.cancel()
            self._kill_timer = loop.call_later(grace, self._kill)
        if not self._stop.is_set():
            self._stop.set()
            for container in self._containers:
                if container.process is not None:
                    self._tell("Normal", "Killing", f"Stopping container {container.name}")
                    container.terminate()

    async def run(self) -> None:
        """The pod's life. Cancelled, it kills the pod's processes and leaves the rest to a later node."""
        deadline = self._arm_deadline()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publisher.run())
            try:
                await self._live()
            except PodStoppedError:
                self._state.ended = True
            except Exception as error:
                self._state.fail("NodeError", f"{type(error).__name__}: {error}")
                raise
            finally:
                self._kill()
                for timer in (deadline, self._kill_timer):
                    if timer is not None:
                        timer.cancel()
                self._state.ended = True
                self._publisher.finish()

    async def _live(self) -> None:
        if self._declare_lost() and self._policy == "Never":
            return
        await self._make_volumes()
        for container in self._init:
            await self._supervise(container, once=True)
            if container.exit_code != 0:
                return
        async with asyncio.TaskGroup() as tasks:
            for container in self._main:
                tasks.create_task(self._supervise(container, once=False))

    async def _supervise(self, container: Container, *, once: bool) -> None:
        """Run a container, again where the restart policy says so; `once`: not after a success."""
        pause = self._host.crash_backoff
        try:
            while self._restarts(await self._run_once(container), once=once):
                message = f"back-off {pause:g}s restarting failed container={container.name} pod={self._name}"
                container.wait("CrashLoopBackOff", message)
                self._tell("Warning", "BackOff", f"Back-off restarting failed container {container.name}")
                self._publisher.news()
                await self._unless_stopped(asyncio.sleep(pause))
                pause = min(pause * 2, LONGEST_CRASH_BACKOFF)
        except PodStoppedError:
            # The other containers end in their own time.
            return

    def _restarts(self, code: int, *, once: bool) -> bool:
        if self._stop.is_set() or self._policy == "Never":
            return False
        return code != 0 or (self._policy == "Always" and not once)

    async def _run_once(self, container: Container) -> int:
        """Start the container's process and wait for its end; its exit code."""
        launch = await self._prepare(container)
        try:
            await container.start(launch)
        except StartError as error:
            self._tell("Warning", "Failed", f"Error: {error}")
            self._publisher.news()
            return NOT_STARTED
        self._host.memory.watch(container)
        self._tell("Normal", "Started", f"Started container {container.name}")
        self._publisher.news()
        if self._stop.is_set():
            container.terminate()
        try:
            return await container.finished(self.sandbox.message_file(container))
        finally:
            self._host.memory.forget(container)
            self._publisher.news()

    async def _prepare(self, container: Container) -> Launch:
        """What the container is started with, once all of it is there. Raises PodStoppedError."""
        image = self._host.images.get(container.spec.get("image", ""))
        if image is None:
            await self._refuse_image(container)
        references = environment.references(container.spec)
        while True:
            found = await self._read(references)
            try:
                return self.sandbox.launch(container, image, found)
            except (MissingObjectError, volumes.VolumeError, ValueError) as error:
                container.wait("CreateContainerConfigError", str(error))
                self._tell("Warning", "Failed", f"Error: {error}")
                await self._wait_for(error)

    async def _make_volumes(self) -> None:
        """Make the volumes, once all that they need is there. Raises PodStoppedError."""
        references, tokens = volumes.references(self._pod), volumes.tokens(self._pod)
        found = await self._read(references, tokens)
        for volume in self._pod["spec"].get("volumes", []):
            while True:
                try:
                    self.sandbox.make_volume(volume, found)
                    break
                except (MissingObjectError, volumes.VolumeError, ValueError) as error:
                    message = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}'
                    self._tell("Warning", "FailedMount", message)
                    await self._wait_for(error)
                found = await self._read(references, tokens)

    async def _wait_for(self, error: Exception) -> None:
        """Wait for what is missing; for ever where no object's coming can help. Raises PodStoppedError."""
        self._publisher.news()
        if isinstance(error, MissingObjectError):
            await self._unless_stopped(objects.changed(self._host.client, self._namespace, error))
        else:
            await self._never()

    async def _refuse_image(self, container: Container) -> NoReturn:
        reference, known = container.spec.get("image", ""), ", ".join(sorted(self._host.images))
        cause = f'failed to resolve image "{reference}": not found; the local node has: {known}'
        self._tell("Warning", "Failed", f'Failed to pull image "{reference}": {cause}')
        self._tell("Normal", "BackOff", f'Back-off pulling image "{reference}"')
        container.wait("ImagePullBackOff", f'Back-off pulling image "{reference}": ErrImagePull: {cause}')
        self._publisher.news()
        await self._never()

    def _declare_lost(self) -> bool:
        """Whether containers ran here under a node that is gone; those have ended in an unknown way."""
        lost = [container for container in self._containers if self.sandbox.was_started(container)]
        for container in lost:
            container.started = 1
            message = "The container could not be located when the pod was terminated"
            container.end(KILLED, "ContainerStatusUnknown", message)
        return bool(lost)

    def _arm_deadline(self) -> asyncio.TimerHandle | None:
        spec = self._pod["spec"]
        if "activeDeadlineSeconds" not in spec:
            return None

        def expire() -> None:
            message = "Pod was active on the node longer than the specified deadline"
            self._state.fail("DeadlineExceeded", message)
            self.stop(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE))

        return asyncio.get_running_loop().call_later(spec["activeDeadlineSeconds"], expire)

    def _status(self) -> Object:
        return pod_status(self._state, self._pod.get("status", {}), datetime.now(UTC))

    def _kill(self) -> None:
        for container in self._containers:
            container.kill()

    def _tell(self, kind: str, reason: str, message: str) -> None:
        self._host.events.record(self._pod, kind, reason, message)

    @property
    def _containers(self) -> list[Container]:
        return [*self._init, *self._main]

    @property
    def _namespace(self) -> str:
        return self._pod["metadata"]["namespace"]

    @property
    def _name(self) -> str:
        return f"{self._namespace}/{self._pod['metadata']['name']}"

    async def _read(self, references: set[tuple[Resource, str]], tokens: Iterable[TokenOf] = ()) -> Objects:
        client = self._host.client
        return await self._unless_stopped(persist(lambda: objects.read(client, self._namespace, references, tokens)))

    async def _never(self) -> NoReturn:
        await self._stop.wait()
        raise PodStoppedError

    async def _unless_stopped(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`; raises PodStoppedError where the pod is told to end before it."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise PodStoppedError
            return working.result()
        finally:
            working.cancel()
            stopping.cancel()
