"""How far a long transfer is, in progress lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from finetune_trainer.objects import Moved
from finetune_trainer.report import Reporter

# Given the bytes that are to be moved, what is told as they move.
Watch = Callable[[int], Moved | None]
_INTERVAL_SECONDS = 5.0
_GIB, _MIB = 1 << 30, 1 << 20


def unwatched(total: int) -> Moved | None:
    """Nobody looks."""
    del total
    return None


def watched(report: Reporter, activity: str, interval: float = _INTERVAL_SECONDS) -> Watch:
    """Reports `activity` with bytes, speed and time left, at most every `interval` seconds."""
    return lambda total: _Watched(report, activity, total, interval)


class _Watched:
    """Counts bytes, from any thread."""

    def __init__(self, report: Reporter, activity: str, total: int, interval: float) -> None:
        self._report, self._activity, self._total, self._interval = report, activity, total, interval
        self._lock = threading.Lock()
        self._moved = 0
        self._started = self._said = time.monotonic()

    def __call__(self, amount: int) -> None:
        """`amount` more bytes went over the wire."""
        with self._lock:
            self._moved += amount
            now = time.monotonic()
            if now - self._said < self._interval or not self._moved:
                return
            self._said = now
            speed = self._moved / (now - self._started)
            said = f"{self._activity} {amounts(self._moved, self._total)}, {speed / _MIB:.0f} MiB/s"
            # What breaks is sent again, so that more than all may go over the wire.
            left = max(0, self._total - self._moved)
            self._report.progress(activity=said, eta_seconds=left / speed)


def amounts(moved: int, total: int) -> str:
    """`1.2 of 4.0 GiB`, or in MiB where the whole is small."""
    name, unit = ("GiB", _GIB) if total >= _GIB else ("MiB", _MIB)
    return f"{moved / unit:.1f} of {total / unit:.1f} {name}"
