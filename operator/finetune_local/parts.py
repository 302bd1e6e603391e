"""The parts of the local cluster, each of which runs within a process or as one: `python -m finetune_local.parts`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_local.apiserver import ApiServer
from finetune_local.children import READY, Command, inherited
from finetune_local.client import ApiClient
from finetune_local.controllers.job_controller import JobController
from finetune_local.node.images import Image
from finetune_local.node.node import Node, NodeSettings

API_SERVER, JOB_CONTROLLER, NODE = "apiserver", "job-controller", "node"
HOST = "127.0.0.1"


@dataclass(frozen=True)
class PartSettings:
    """What the parts need to know. `data`: where the API server keeps its objects; None: in memory only."""

    port: int
    state: Path
    persistent: bool
    pod_backoff: float
    node: NodeSettings

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"http://{HOST}:{self.port}"

    @property
    def logs(self) -> Path:
        """Where the node writes the pods' logs and the API server reads them."""
        return self.state / "logs"

    def encode(self) -> str:
        """As text, for another process."""
        content = asdict(self)
        return json.dumps({**content, "state": str(self.state)})

    @classmethod
    def decode(cls, text: str) -> PartSettings:
        """The inverse of `encode`."""
        content = json.loads(text)
        node = content["node"]
        images = {name: Image(**_tuples(image)) for name, image in node["images"].items()}
        return cls(**{**content, "state": Path(content["state"]), "node": NodeSettings(**{**node, "images": images})})


Failure = asyncio.Future[None]


@asynccontextmanager
async def api_server(settings: PartSettings) -> AsyncIterator[Failure]:
    """The API server with its garbage collector."""
    data = settings.state / "objects" if settings.persistent else None
    async with ApiServer(host=HOST, port=settings.port, logs_dir=settings.logs, data_dir=data):
        yield asyncio.get_running_loop().create_future()


@asynccontextmanager
async def job_controller(settings: PartSettings) -> AsyncIterator[Failure]:
    """The Job controller."""
    async with ApiClient(settings.url) as client:
        controller = JobController(client, pod_backoff=settings.pod_backoff)
        async with _running(controller.run(), controller.ready) as failure:
            yield failure


@asynccontextmanager
async def node(settings: PartSettings) -> AsyncIterator[Failure]:
    """The scheduler and the node."""
    async with ApiClient(settings.url) as client:
        worker = Node(client, settings.state, settings.logs, settings.node)
        async with _running(worker.run(), worker.ready) as failure:
            yield failure


# Each runs within its context; the future that it gives ends only by the part's failure.
PARTS: dict[str, Callable[[PartSettings], AbstractAsyncContextManager[Failure]]] = {
    API_SERVER: api_server,
    JOB_CONTROLLER: job_controller,
    NODE: node,
}


def command(part: str, settings: PartSettings) -> Command:
    """The command that runs `part` as a process of its own."""
    words = [sys.executable, "-m", "finetune_local.parts", part, settings.encode()]
    return Command(part, words, inherited(), announces=True)


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None], ready: asyncio.Event) -> AsyncIterator[Failure]:
    """Run `work` meanwhile, once it is `ready`. Not a TaskGroup: it may be left in another task than entered."""
    task, readiness = asyncio.create_task(work), asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, readiness}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield task
    finally:
        readiness.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def stop_signal() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set, instead of what they otherwise do."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _run(part: str, settings: PartSettings) -> None:
    stop = stop_signal()
    async with PARTS[part](settings) as failure:
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, failure}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()


def _tuples(image: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in image.items()}


def main() -> None:
    """Run one part until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m finetune_local.parts", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("settings", type=PartSettings.decode, help="made by PartSettings.encode")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(arguments.part, arguments.settings))


if __name__ == "__main__":
    main()
