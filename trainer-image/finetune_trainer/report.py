"""Progress lines on stdout, and words for people beside them."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

from finetune_api.stage import Progress
from finetune_trainer.severity import DEFAULT, Severity

_TAIL_LINES = 400


class Reporter:
    """Writes JSON lines: `progress` for the operator, `log` for people who read the pod's log.

    Of the latter, those below `level` are left out of the stream, and kept in `tail` all the same. Values that are NaN
    or infinite are left out: JSON has no word for them, and status none either.
    """

    def __init__(self, stream: TextIO | None = None, level: Severity = DEFAULT) -> None:
        self.level = level
        self._stream = stream or sys.stdout
        self._started = time.monotonic()
        self._kept: Path | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    @property
    def tail(self) -> list[str]:
        """The last lines, of whatever severity."""
        return list(self._tail)

    def keep(self, path: Path) -> None:
        """From now on every progress line with a loss is appended to `path` too: the curve of a training."""
        self._kept = path

    def progress(self, **fields: Any) -> None:
        """One `Progress` line; `fields` are its attributes in snake_case."""
        finite = {name: value for name, value in fields.items() if not _unspeakable(value)}
        progress = Progress(**finite)
        line = progress.model_dump_json(exclude_none=True)
        self._write(line)
        if self._kept and not (progress.loss is None and progress.eval_loss is None):
            with self._kept.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def log(self, message: str, severity: Severity = Severity.INFO) -> None:
        """One line for people, on one line whatever `message` holds; from warnings on it names its severity."""
        mark = f"{severity.name.lower()}: " if severity >= Severity.WARNING else ""
        self._write(f"[{time.monotonic() - self._started:8.2f}s] {mark}" + " ".join(message.splitlines()), severity)

    def _write(self, line: str, severity: Severity = Severity.FATAL) -> None:
        self._tail.append(line)
        if severity < self.level:
            return
        self._stream.write(line + "\n")
        self._stream.flush()


def _unspeakable(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
