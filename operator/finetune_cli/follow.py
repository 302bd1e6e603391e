"""Following a job until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from finetune_api.status import Status
from finetune_cli.apply import FINETUNE_JOBS
from finetune_cli.errors import job_failed
from finetune_cli.jobfile import Body
from finetune_cli.standing import status_of
from finetune_cli.words import ended
from finetune_local.client import ApiClient, Object
from finetune_local.informer import DELETED, Informer


async def follow(client: ApiClient, job: Body) -> AsyncIterator[Status]:
    """Every status of `job`, an object as the server returned it; the last one is final.

    Statuses of an earlier generation are left out. Raises CliError where the job is deleted meanwhile.
    """
    metadata = job["metadata"]
    changes: asyncio.Queue[tuple[str, Object]] = asyncio.Queue()
    informer = Informer(
        client,
        FINETUNE_JOBS,
        lambda kind, item: changes.put_nowait((kind, item)),
        namespace=metadata["namespace"],
        field_selector=f"metadata.name={metadata['name']}",
    )
    watching = asyncio.create_task(informer.run())
    try:
        while True:
            kind, item = await _next(changes, watching)
            if kind == DELETED:
                raise job_failed(f"{metadata['namespace']}/{metadata['name']} was deleted before it ended")
            status = status_of(item)
            if status.observed_generation != item["metadata"]["generation"]:
                continue
            yield status
            if ended(status) is not None:
                return
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _next(changes: asyncio.Queue[tuple[str, Object]], watching: asyncio.Task[None]) -> tuple[str, Object]:
    """The next change; the watch's own error where it has ended."""
    waiting = asyncio.create_task(changes.get())
    await asyncio.wait({waiting, watching}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        await watching
    return await waiting
