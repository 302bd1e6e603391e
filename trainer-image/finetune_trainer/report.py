"""Progress lines on stdout, and words for people beside them."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, TextIO

from finetune_api.stage import Progress


class Reporter:
    """Writes JSON lines: `progress` for the operator, `log` for people who read the pod's log.

    Values that are NaN or infinite are left out: JSON has no word for them, and status none either.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._started = time.monotonic()

    def progress(self, **fields: Any) -> None:
        """One `Progress` line; `fields` are its attributes in snake_case."""
        finite = {name: value for name, value in fields.items() if not _unspeakable(value)}
        self._write(Progress(**finite).model_dump_json(exclude_none=True))

    def log(self, message: str) -> None:
        """One line for people, on one line whatever `message` holds."""
        self._write(f"[{time.monotonic() - self._started:8.2f}s] " + " ".join(message.splitlines()))

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _unspeakable(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
