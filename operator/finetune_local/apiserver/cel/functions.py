"""CEL's functions: the standard ones, and those that Kubernetes adds for strings, lists, sets and regular
expressions (https://kubernetes.io/docs/reference/using-api/cel/). Not offered: quantity, url, ip, cidr, format,
semver and optional values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any

from finetune_local.apiserver.cel.values import CelError, Type, add, equal, less, no_overload, type_name

Function = Callable[..., Any]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|ns)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _size(value: Any) -> int:
    if isinstance(value, str | bytes | list | dict):
        return len(value)
    raise no_overload("size", value)


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise CelError(f"invalid regular expression {text!r}: {error}") from error


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str | datetime):
        raise no_overload("int", value)
    try:
        return int(value.timestamp()) if isinstance(value, datetime) else int(value)
    except ValueError as error:
        raise CelError(f"cannot convert {value!r} to int") from error


def _double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise no_overload("double", value)
    try:
        return float(value)
    except ValueError as error:
        raise CelError(f"cannot convert {value!r} to double") from error


def _double_text(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


_TEXTS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    bytes: lambda value: value.decode(),
    datetime: lambda value: value.isoformat().replace("+00:00", "Z"),
    float: _double_text,
    int: str,
    str: lambda value: value,
    timedelta: lambda value: f"{value.total_seconds():g}s",
}


def _string(value: Any) -> str:
    if type(value) not in _TEXTS:
        raise no_overload("string", value)
    return _TEXTS[type(value)](value)


def _bool(value: Any) -> bool:
    if value in ("true", "false"):
        return bool(value == "true")
    if isinstance(value, bool):
        return value
    raise CelError(f"cannot convert {value!r} to bool")


def _duration(text: str) -> timedelta:
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = _DURATION.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise CelError(f"invalid duration {text!r}")
    return timedelta(seconds=sign * sum(float(number) * _UNITS[unit] for number, unit in parts))


def _timestamp(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
    except ValueError as error:
        raise CelError(f"invalid timestamp {text!r}") from error


def _index_of(where: Any, what: Any, start: int = 0) -> int:
    if isinstance(where, str):
        return where.find(what, start)
    return next((i for i, item in enumerate(where) if equal(item, what)), -1)


def _last_index_of(where: Any, what: Any) -> int:
    if isinstance(where, str):
        return where.rfind(what)
    return next((i for i in range(len(where) - 1, -1, -1) if equal(where[i], what)), -1)


def _sum(items: list[Any]) -> Any:
    if not items:
        return 0
    total = items[0]
    for item in items[1:]:
        total = add(total, item)
    return total


def _extreme(items: list[Any], better: Callable[[Any, Any], bool]) -> Any:
    if not items:
        raise CelError("min and max need at least one element")
    best = items[0]
    for item in items[1:]:
        if better(item, best):
            best = item
    return best


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if not separator:
        return list(text)
    return text.split(separator, limit - 1 if limit > 0 else -1)


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise CelError(f"index out of range: {start}, {stop}")
    return text[start:stop]


def _char_at(text: str, position: int) -> str:
    if not 0 <= position <= len(text):
        raise CelError(f"index out of range: {position}")
    return text[position : position + 1]


def _replace(text: str, old: str, new: str, limit: int = -1) -> str:
    return text.replace(old, new, limit)


def _find(text: str, pattern: str) -> str:
    match = _pattern(pattern).search(text)
    return match[0] if match else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match[0] for match in _pattern(pattern).finditer(text)]
    return found if limit < 0 else found[:limit]


def _subset(left: list[Any], right: list[Any]) -> bool:
    return all(any(equal(item, other) for other in right) for item in left)


GLOBAL: dict[str, Function] = {
    "bool": _bool,
    "double": _double,
    "duration": _duration,
    "dyn": lambda value: value,
    "int": _int,
    "size": _size,
    "string": _string,
    "timestamp": _timestamp,
    "type": lambda value: Type(type_name(value)),
    "uint": _int,
}
"""Functions that are called by their name."""

METHODS: dict[str, Function] = {
    "charAt": _char_at,
    "contains": lambda text, part: part in text,
    "endsWith": lambda text, end: text.endswith(end),
    "find": _find,
    "findAll": _find_all,
    "getSeconds": lambda value: int(value.total_seconds()) if isinstance(value, timedelta) else value.second,
    "indexOf": _index_of,
    "isSorted": lambda items: not any(less(b, a) for a, b in pairwise(items)),
    "join": lambda items, separator="": separator.join(items),
    "lastIndexOf": _last_index_of,
    "lowerAscii": lambda text: text.lower(),
    "matches": lambda text, pattern: bool(_pattern(pattern).search(text)),
    "max": lambda items: _extreme(items, lambda a, b: less(b, a)),
    "min": lambda items: _extreme(items, less),
    "replace": _replace,
    "reverse": lambda value: value[::-1],
    "size": _size,
    "split": _split,
    "startsWith": lambda text, start: text.startswith(start),
    "substring": _substring,
    "sum": _sum,
    "trim": lambda text: text.strip(),
    "upperAscii": lambda text: text.upper(),
}
"""Functions that are called on a value."""

NAMESPACED: dict[str, Function] = {
    "sets.contains": lambda items, part: _subset(part, items),
    "sets.equivalent": lambda a, b: _subset(a, b) and _subset(b, a),
    "sets.intersects": lambda a, b: any(equal(x, y) for x in a for y in b),
}
"""Functions of a library: `sets.contains(a, b)`."""

TYPES = {
    "bool": "bool",
    "bytes": "bytes",
    "double": "double",
    "int": "int",
    "list": "list",
    "map": "map",
    "null_type": "null_type",
    "string": "string",
    "uint": "int",
}
"""Identifiers that stand for a type."""


def call(function: Function, name: str, *arguments: Any) -> Any:
    """Call a function; a value of the wrong type is CEL's `no such overload`."""
    try:
        return function(*arguments)
    except (TypeError, AttributeError) as error:
        raise no_overload(name, *arguments) from error
