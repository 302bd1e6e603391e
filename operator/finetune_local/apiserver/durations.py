"""Times and durations as kubectl prints them (apimachinery's `duration.HumanDuration`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from finetune_local.apiserver.objects import parse_time

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_YEAR = 365 * _DAY


def human(seconds: int) -> str:
    """12s, 4m30s, 15m, 3h20m, 12h, 2d4h, 12d, 2y3d."""
    if seconds < -1:
        return "<invalid>"
    seconds = max(0, seconds)
    for below, text in (
        (2 * _MINUTE, f"{seconds}s"),
        (10 * _MINUTE, _two(seconds, _MINUTE, "m", 1, "s")),
        (3 * _HOUR, f"{seconds // _MINUTE}m"),
        (8 * _HOUR, _two(seconds, _HOUR, "h", _MINUTE, "m")),
        (2 * _DAY, f"{seconds // _HOUR}h"),
        (8 * _DAY, _two(seconds, _DAY, "d", _HOUR, "h")),
        (2 * _YEAR, f"{seconds // _DAY}d"),
        (8 * _YEAR, _two(seconds, _YEAR, "y", _DAY, "d")),
    ):
        if seconds < below:
            return text
    return f"{seconds // _YEAR}y"


def _two(seconds: int, unit: int, mark: str, lesser: int, lesser_mark: str) -> str:
    rest = seconds % unit // lesser
    return f"{seconds // unit}{mark}" + (f"{rest}{lesser_mark}" if rest else "")


def age(since: Any) -> str:
    """The time since an RFC 3339 time; `<unknown>` without one."""
    if not since:
        return "<unknown>"
    try:
        start = parse_time(since)
    except (AttributeError, ValueError):
        return "<invalid>"
    return human(int((datetime.now(UTC) - start).total_seconds()))


def between(start: str | None, end: str | None) -> str:
    """The time from one RFC 3339 time to another, or to now; "" without a start."""
    if not start:
        return ""
    until = parse_time(end) if end else datetime.now(UTC)
    return human(int((until - parse_time(start)).total_seconds()))
