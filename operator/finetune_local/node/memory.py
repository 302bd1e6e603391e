"""Memory limits: a container that holds more than its limit is killed, about once a second."""

from __future__ import annotations

import asyncio

import psutil

from finetune_local import processes
from finetune_local.node.container import Container
from finetune_local.node.quantities import parse


class MemoryGuard:
    """Watches the containers that have a memory limit.

    Counted is what a process and its descendants hold beside files and shared pages (RSS less shared): a cgroup
    does not kill for pages that it can take back, and counting a library once per process would.
    """

    def __init__(self, family: str, interval: float = 1.0) -> None:
        self._family, self._interval = family, interval
        self._limits: dict[str, tuple[Container, int]] = {}
        self._wanted = asyncio.Event()

    def watch(self, container: Container) -> None:
        """Watch a container that runs, if it has a limit."""
        limit = container.spec.get("resources", {}).get("limits", {}).get("memory")
        if limit is not None and container.launch is not None:
            self._limits[container.launch.member] = (container, int(parse(limit)))
            self._wanted.set()

    def forget(self, container: Container) -> None:
        """The container has ended."""
        if container.launch is not None:
            self._limits.pop(container.launch.member, None)
            if not self._limits:
                self._wanted.clear()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(self._interval)
            living = processes.members(self._family)
            for member, (container, limit) in list(self._limits.items()):
                if sum(_held(pid) for pid in living.get(member, [])) > limit:
                    container.out_of_memory = True
                    container.kill()


def _held(pid: int) -> int:
    """Bytes that the process holds for itself."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return memory.rss - getattr(memory, "shared", 0)
