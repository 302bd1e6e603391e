"""Schemas of the built-in kinds, from `builtin.json`, which `generate.py` makes.

A file rather than the client's models at run time: importing those takes a second and a half.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("builtin.json")
REF = "#/definitions/"


@cache
def definitions() -> dict[str, dict[str, Any]]:
    """Name -> schema of every type."""
    return json.loads(PATH.read_text())["definitions"]


def definition(ref: str) -> dict[str, Any]:
    """What `#/definitions/<name>` refers to."""
    return definitions()[ref.removeprefix(REF)]


@cache
def models() -> dict[str, str]:
    """Name of a model class of the client -> name of its definition."""
    return json.loads(PATH.read_text())["models"]


def model_schema(model: str) -> dict[str, Any]:
    """The schema of a model class, `V1Pod`."""
    return definitions()[models()[model]]
