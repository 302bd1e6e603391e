"""What the table over all fields is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Fields = dict[str, Any]


class Case(NamedTuple):
    """Two settings, and what of each is looked at."""

    one: Fields
    other: Fields
    seen: Callable[..., Any]
