"""Running a command's coroutine so that Ctrl-C and SIGTERM both end it in good order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """`work`'s result. On SIGINT or SIGTERM it is cancelled, cleans up, and KeyboardInterrupt is raised."""
    try:
        return asyncio.run(_guarded(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _guarded(work: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.ensure_future(work)
    # SIGINT too: asyncio leaves it alone where the shell that started this had it ignored, as in `finetune local &`.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task
