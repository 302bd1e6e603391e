"""CEL's operators on plain JSON values.

Python's own differ where it matters: `True == 1`, integer division that rounds down, `1 + 1.0`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any


class CelError(Exception):
    """An expression that cannot be evaluated: a missing member, an operator on the wrong types."""


def no_overload(operator: str, *values: Any) -> CelError:
    kinds = ", ".join(type_name(value) for value in values)
    return CelError(f"no such overload: {operator}({kinds})")


def type_name(value: Any) -> str:
    """CEL's name of a value's type."""
    if value is None:
        return "null_type"
    names: dict[type, str] = {
        bool: "bool",
        int: "int",
        float: "double",
        str: "string",
        bytes: "bytes",
        list: "list",
        dict: "map",
        datetime: "google.protobuf.Timestamp",
        timedelta: "google.protobuf.Duration",
        Type: "type",
    }
    return names[type(value)]


class Type(str):
    """A type as a value: `type(self) == string`."""

    __slots__ = ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(left: Any, right: Any) -> bool:
    if _is_number(left) and _is_number(right):
        return left == right
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return bool(left == right)


def less(left: Any, right: Any) -> bool:
    if _is_number(left) and _is_number(right):
        return bool(left < right)
    if type(left) is type(right) and isinstance(left, bool | str | bytes | datetime | timedelta):
        return bool(left < right)
    raise no_overload("_<_", left, right)


def contains(item: Any, container: Any) -> bool:
    """CEL's `in`."""
    if isinstance(container, list):
        return any(equal(item, element) for element in container)
    if isinstance(container, dict):
        return item in container
    raise no_overload("in", item, container)


def add(left: Any, right: Any) -> Any:
    times = isinstance(left, datetime | timedelta) and isinstance(right, timedelta)
    later = isinstance(left, timedelta) and isinstance(right, datetime)
    alike = type(left) is type(right) and isinstance(left, int | float | str | bytes | list)
    if times or later or (alike and not isinstance(left, bool)):
        return left + right
    raise no_overload("_+_", left, right)


def subtract(left: Any, right: Any) -> Any:
    times = isinstance(left, datetime | timedelta) and isinstance(right, timedelta)
    between = isinstance(left, datetime) and isinstance(right, datetime)
    if times or between or _alike(left, right):
        return left - right
    raise no_overload("_-_", left, right)


def multiply(left: Any, right: Any) -> Any:
    if _alike(left, right):
        return left * right
    raise no_overload("_*_", left, right)


def divide(left: Any, right: Any) -> Any:
    if not _alike(left, right):
        raise no_overload("_/_", left, right)
    if isinstance(left, float):
        return left / right if right else float("inf" if left > 0 else "-inf" if left < 0 else "nan")
    if right == 0:
        raise CelError("division by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) is (right < 0) else -quotient


def modulo(left: Any, right: Any) -> Any:
    if not _alike(left, right) or isinstance(left, float):
        raise no_overload("_%_", left, right)
    if right == 0:
        raise CelError("modulus by zero")
    return left - right * divide(left, right)


def _alike(left: Any, right: Any) -> bool:
    return _is_number(left) and type(left) is type(right)


def negate(value: Any) -> Any:
    if _is_number(value):
        return -value
    raise no_overload("-_", value)


def truth(value: Any) -> bool:
    """A value that must be a boolean."""
    if isinstance(value, bool):
        return value
    raise no_overload("condition", value)


def index(container: Any, key: Any) -> Any:
    if isinstance(container, dict):
        if key in container:
            return container[key]
        raise CelError(f"no such key: {key}")
    if isinstance(container, list) and isinstance(key, int) and not isinstance(key, bool):
        if 0 <= key < len(container):
            return container[key]
        raise CelError(f"index out of bounds: {key}")
    raise no_overload("_[_]", container, key)
