"""A keyed work queue: one worker at a time for a key, the latest state wins, errors back off.

The counterpart of client-go's workqueue on asyncio. A key that is added while it is worked on is worked on once
more afterwards; adding it ten times meanwhile makes no difference. Urgent keys go before all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
logger = logging.getLogger(__name__)


class WorkQueue(Generic[Key]):
    """Calls `work(key)` for each added key. `work` returns seconds until it wants the key again, or None.

    What it raises is logged with its traceback, unless `may_pass` says that it speaks of a server that is away.
    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[float | None]],
        *,
        workers: int = 8,
        backoff: float = 0.5,
        backoff_limit: float = 60.0,
        may_pass: Callable[[Exception], bool] = lambda _: False,
    ) -> None:
        self._work = work
        self._may_pass = may_pass
        self._workers = workers
        self._backoff, self._backoff_limit = backoff, backoff_limit
        # (0 where it is urgent else 1, the order of arrival, key). A key whose urgency rose is in it twice; `_waiting`
        # has the entry that counts.
        self._ready: asyncio.PriorityQueue[tuple[int, int, Key]] = asyncio.PriorityQueue()
        self._arrivals = itertools.count()
        self._waiting: dict[Key, int] = {}
        self._busy: dict[Key, float] = {}
        # What was asked for while it was worked on, and whether urgently.
        self._dirty: dict[Key, bool] = {}
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, key: Key, *, urgent: bool = False) -> None:
        """Ask for `key` to be worked on, now or once its present work ends; before what is not urgent, if it is."""
        self._cancel_timer(key)
        rank = 0 if urgent else 1
        if key in self._busy:
            self._dirty[key] = urgent or self._dirty.get(key, False)
        elif self._waiting.get(key, 2) > rank:
            self._waiting[key] = rank
            self._ready.put_nowait((rank, next(self._arrivals), key))

    def add_after(self, key: Key, delay: float) -> None:
        """Ask for `key` in `delay` seconds; an earlier timer of the key stays."""
        loop = asyncio.get_running_loop()
        current = self._timers.get(key)
        if current is None or current.when() > loop.time() + delay:
            self._cancel_timer(key)
            self._timers[key] = loop.call_later(delay, self.add, key)

    def start(self) -> None:
        """Start the workers on the running loop."""
        self._tasks = [asyncio.create_task(self._run(), name=f"worker-{index}") for index in range(self._workers)]

    async def stop(self) -> None:
        """Stop the workers where they are; what they were doing is decided anew after the next start."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting)

    def longest(self) -> float:
        """Seconds that the longest present piece of work has taken so far."""
        return time.monotonic() - min(self._busy.values()) if self._busy else 0.0

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def _run(self) -> None:
        while True:
            rank, _, key = await self._ready.get()
            if self._waiting.get(key) != rank:
                continue
            del self._waiting[key]
            self._busy[key] = time.monotonic()
            delay: float | None = None
            try:
                delay = await self._work(key)
                self._failures.pop(key, None)
            except Exception as error:
                # A key that fails must neither stop the others nor be forgotten.
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                delay = min(self._backoff * 2 ** min(failures - 1, 20), self._backoff_limit)
                if self._may_pass(error):
                    logger.warning("Work on %s: %s: %s; again in %.1f s.", key, type(error).__name__, error, delay)
                else:
                    logger.exception("Work on %s failed; again in %.1f s.", key, delay)
            finally:
                self._busy.pop(key, None)
            urgent = self._dirty.pop(key, None)
            if urgent is not None and (delay is None or key not in self._failures):
                self.add(key, urgent=urgent)
                continue
            if delay is not None:
                with contextlib.suppress(RuntimeError):
                    self.add_after(key, delay)
