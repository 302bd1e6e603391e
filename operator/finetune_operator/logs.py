"""Log lines for people or for machines, each with the job that it is about.

What a piece of work is about is said once, with `about`; every line that is logged meanwhile carries it, whoever
logs it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

FIELDS = ("namespace", "name", "generation", "stage")
FORMATS = ("text", "json")

_NOTHING: Mapping[str, str | int] = MappingProxyType({})
_subject: ContextVar[Mapping[str, str | int]] = ContextVar("subject", default=_NOTHING)


@contextmanager
def about(**fields: str | int) -> Iterator[None]:
    """Lines logged in this context name these of FIELDS, beside those of the context around; not the empty ones."""
    token = _subject.set({**_subject.get(), **{name: value for name, value in fields.items() if value != ""}})
    try:
        yield
    finally:
        _subject.reset(token)


def configure(form: str, stream: TextIO = sys.stderr) -> None:
    """Log to `stream`, one of FORMATS. Replaces what was configured before."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name, level in (
        # One line for each event of each object says nothing; what changed is logged where it is written.
        ("kopf.objects", logging.WARNING),
        ("kopf.activities", logging.WARNING),
        ("aiohttp.access", logging.WARNING),
        ("asyncio", logging.WARNING),
    ):
        logging.getLogger(name).setLevel(level)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, FIELDS where they are known, and the traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_subject.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """`time level [namespace/name generation stage] message`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(subject)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback below it, if any."""
        record.subject = _in_brackets(_subject.get())
        return super().format(record)


def _in_brackets(subject: Mapping[str, str | int]) -> str:
    if not subject:
        return ""
    job = f"{subject.get('namespace', '')}/{subject.get('name', '')}"
    generation = f" #{subject['generation']}" if "generation" in subject else ""
    stage = f" {subject['stage']}" if "stage" in subject else ""
    return f"[{job}{generation}{stage}] "
