"""The JSONPath of printer columns: members, indexes, `*`, and filters such as `[?(@.type=="Ready")]`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_Step = Callable[[Any], list[Any]]

_TOKEN = re.compile(
    r"""\.?(?P<member>[A-Za-z_$](?:[-\w$/]|\\\.)*)
      | \['(?P<quoted>[^']+)'\]
      | \[\?\(@\.(?P<path>[-\w.]+)\s*(?P<op>==|!=)\s*(?P<value>"[^"]*"|'[^']*'|[^)]+)\)\]
      | \[(?P<index>-?\d+)\]
      | (?:\[\*\]|\.\*)(?P<all>)""",
    re.VERBOSE,
)


def find(value: Any, path: str) -> list[Any]:
    """What the path leads to; an empty list where there is nothing."""
    found = [value]
    for step in _compiled(path):
        found = [item for present in found for item in step(present)]
    return found


@lru_cache(maxsize=512)
def _compiled(path: str) -> tuple[_Step, ...]:
    steps = []
    position = 0
    while position < len(path):
        match = _TOKEN.match(path, position)
        if match is None:
            raise ValueError(f"unsupported JSONPath {path!r} at {path[position:]!r}")
        steps.append(_step(match))
        position = match.end()
    return tuple(steps)


def _step(match: re.Match[str]) -> _Step:
    if match["all"] is not None:
        return lambda v: list(v.values()) if isinstance(v, dict) else v if isinstance(v, list) else []
    if match["index"]:
        index = int(match["index"])
        return lambda v: [v[index]] if isinstance(v, list) and -len(v) <= index < len(v) else []
    if match["path"]:
        return _filter(match)
    name = (match["member"] or match["quoted"]).replace("\\.", ".")
    return lambda v: [v[name]] if isinstance(v, dict) and name in v else []


def _filter(match: re.Match[str]) -> _Step:
    text = match["value"].strip()
    wanted = text[1:-1] if text[0] in "'\"" else json.loads(text)
    path, equal = match["path"], match["op"] == "=="

    def step(value: Any) -> list[Any]:
        items = value if isinstance(value, list) else []
        return [item for item in items if (find(item, path) == [wanted]) is equal]

    return step
