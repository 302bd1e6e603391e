"""A step that never ends: noticed, shown, and ended, so that another attempt can go on elsewhere."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune_api.stage import ExitCode


class StallWatch:
    """Ends the process where `beat` was not called for `seconds`. A thread of its own looks, a few times as often."""

    def __init__(self, seconds: float, end: Callable[[float], None] | None = None) -> None:
        self._seconds = seconds
        self._end = end or end_process
        self._last = time.monotonic()
        self._done = threading.Event()

    def beat(self) -> None:
        """Something was done."""
        self._last = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches until it is left."""
        self.beat()
        thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(10.0, self._seconds / 5)):
            if time.monotonic() - self._last > self._seconds:
                self._end(self._seconds)
                return


def end_process(seconds: float) -> None:
    """Ends this process with STALLED after showing where each thread is: a hung call can be ended no other way."""
    sys.stderr.write(f"nothing was done for {seconds:g} s (trainingArgs.stallSeconds); all threads:\n")
    sys.stderr.flush()
    faulthandler.dump_traceback(all_threads=True)
    os._exit(ExitCode.STALLED)
