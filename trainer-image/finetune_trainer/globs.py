"""Wildcards in the names of files: `*` and `?` within a folder, `[…]` one character of several, `**` any folders."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WILDCARDS = "*?["


def has_wildcards(name: str) -> bool:
    """Whether `name` stands for several."""
    return any(character in name for character in _WILDCARDS)


def literal_folder(pattern: str) -> str:
    """The folder of `pattern` above its first wildcard, without a slash at the end."""
    first = min(pattern.index(character) for character in _WILDCARDS if character in pattern)
    return pattern[:first].rpartition("/")[0]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that `pattern` stands for, in order of their names."""
    expression = _expression(pattern)
    return sorted(name for name in names if expression.fullmatch(name))


def _expression(pattern: str) -> re.Pattern[str]:
    """`pattern` for a whole name; no wildcard but `**` crosses a slash."""
    parts = pattern.split("/")
    text = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            text += ".*" if last else "(?:.*/)?"
        else:
            text += _segment(part) + ("" if last else "/")
    return re.compile(text, re.DOTALL)


def _segment(part: str) -> str:
    """The expression of one folder's or file's name."""
    return "".join(map(_piece, re.findall(r"\[!?[^\]]+\]|.", part, re.DOTALL)))


def _piece(piece: str) -> str:
    if piece in ("*", "?"):
        return "[^/]*" if piece == "*" else "[^/]"
    if len(piece) == 1:
        return re.escape(piece)
    characters = re.escape(piece[1:-1].removeprefix("!")).replace(r"\-", "-")
    return f"[^/{characters}]" if piece[1] == "!" else f"[{characters}]"
