"""What a pod's processes write, passed on to the pod's own log at once, with its end kept for who has to explain it.

Imports nothing heavy: it is the supervisor's.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterable

# What is kept; evidence holds no more than this (`post_mortem`).
MOST_BYTES = 200_000
# A longer line is passed on as any other, and not kept: only of whole lines can every secret be told.
_LONGEST_LINE = 1 << 16
# Progress bars end a line with a carriage return.
_LINE_END = re.compile(rb"[\r\n]")
# A process that the stage left behind may hold its pipe open for good.
_LAST_WORDS_SECONDS = 2.0


class Tail:
    """The last whole lines of several streams, in the order in which they ended."""

    def __init__(self, limit: int = MOST_BYTES) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._lock = threading.Lock()

    def add(self, lines: bytes) -> None:
        """Keeps `lines`, each with its end, and lets go of the oldest."""
        with self._lock:
            self._kept += lines
            # Not at each line: the rest would be moved each time.
            if len(self._kept) > 2 * self._limit:
                self._cut()

    def text(self) -> str:
        """What is kept; at most the limit's bytes."""
        with self._lock:
            self._cut()
            return self._kept.decode(errors="replace")

    def _cut(self) -> None:
        excess = len(self._kept) - self._limit
        if excess > 0:
            end = _LINE_END.search(self._kept, excess - 1)
            del self._kept[: end.end() if end else None]


class PassedOn:
    """A pipe to be some processes' stdout or stderr; what comes is written to `target`, and whole lines to `tail`."""

    def __init__(self, target: int, tail: Tail, deaf_to: Iterable[int] = ()) -> None:
        """`deaf_to`: signals that only the main thread is to get, which may wait in a call that they have to break."""
        self._target, self._tail, self._deaf_to = target, tail, tuple(deaf_to)
        self._reader, self.writer = os.pipe()
        self._thread = threading.Thread(target=self._pass_on, name=f"passing-on-{target}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The processes have their ends of it: this one's is not needed any more."""
        os.close(self.writer)

    def finish(self) -> None:
        """Waits for what was written before the last process ended, but not for long."""
        self._thread.join(_LAST_WORDS_SECONDS)

    def _pass_on(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, self._deaf_to)
        # Of a line that is too long nothing is kept: None until it ends.
        begun: bytes | None = b""
        while chunk := os.read(self._reader, 1 << 16):
            self._write(chunk)
            ends = [found.end() for found in _LINE_END.finditer(chunk)]
            first = chunk[: ends[0]] if ends else chunk
            begun = begun + first if begun is not None and len(begun) + len(first) <= _LONGEST_LINE else None
            if ends:
                self._tail.add((begun or b"") + chunk[ends[0] : ends[-1]])
                begun = chunk[ends[-1] :]
        self._tail.add(begun or b"")

    def _write(self, chunk: bytes) -> None:
        # Where nobody takes the log any more, the stage goes on all the same.
        with contextlib.suppress(OSError):
            while chunk:
                chunk = chunk[os.write(self._target, chunk) :]
