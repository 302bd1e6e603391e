"""Tables: what `kubectl get` prints. kubectl asks the server for the columns and rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from finetune_local.apiserver.columns import COLUMNS, Cells
from finetune_local.apiserver.durations import age
from finetune_local.apiserver.jsonpath import find
from finetune_local.apiserver.objects import Object
from finetune_local.apiserver.resources import Column, Resource

_NAME_TEXT = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow "
    "a client to request the generation of an appropriate name automatically."
)


def table(resource: Resource, objects: list[Object], metadata: Object, include: str) -> Object:
    """A `meta.k8s.io/v1 Table`. `include` says what each row carries of its object: None, Metadata or Object."""
    columns, cells = _columns(resource)
    return {
        "apiVersion": "meta.k8s.io/v1",
        "columnDefinitions": [_definition(column) for column in columns],
        "kind": "Table",
        "metadata": metadata,
        "rows": [_row(obj, cells(obj), include) for obj in objects],
    }


def _row(obj: Object, cells: list[Any], include: str) -> Object:
    row: Object = {"cells": cells}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        kind = "PartialObjectMetadata"
        row["object"] = {"apiVersion": "meta.k8s.io/v1", "kind": kind, "metadata": obj["metadata"]}
    return row


def _definition(column: Column) -> Object:
    return {
        "description": column.description,
        "format": column.format,
        "name": column.name,
        "priority": column.priority,
        "type": column.type,
    }


def _columns(resource: Resource) -> tuple[tuple[Column, ...], Callable[[Object], list[Any]]]:
    name = Column("Name", "string", "", format="name", description=_NAME_TEXT)
    built_in: Cells | None = COLUMNS.get(resource.bucket)
    if built_in is not None:
        return (name, *built_in.columns), lambda obj: [obj["metadata"]["name"], *built_in.cells(obj)]
    columns = resource.columns or (Column("Age", "date", "metadata.creationTimestamp"),)
    return (name, *columns), lambda obj: [
        obj["metadata"]["name"],
        *(_cell(column, find(obj, column.path)) for column in columns),
    ]


def _cell(column: Column, found: list[Any]) -> Any:
    """A custom column's cell. A value that does not fit the column's type is left out, as a real server does."""
    if not found or found[0] is None:
        return None
    value = found[0]
    if column.type == "date":
        return age(value)
    if column.type == "string":
        return _text(value if len(found) == 1 else found)
    fitting: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,)}
    allowed = fitting.get(column.type, (object,))
    if not isinstance(value, allowed) or (isinstance(value, bool) and column.type != "boolean"):
        return None
    return value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
