"""What happens to an object before it is validated: unknown fields dropped, defaults filled in.

The functions change the object that they are given. See
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#field-pruning
"""

from __future__ import annotations

from typing import Any

from finetune_local.apiserver.objects import clone
from finetune_local.apiserver.schemas import EMBEDDED, PRESERVE, Schema, resolve

_EMBEDDED_MEMBERS = ("apiVersion", "kind", "metadata")


def prune(value: Any, schema: Schema | None, path: str, unknown: list[str]) -> None:
    """Drop members of which the schema knows nothing; their paths are added to `unknown`."""
    resolved = resolve(schema) or {}
    if isinstance(value, list):
        element = resolved.get("items")
        for index, item in enumerate(value):
            if element is not None:
                prune(item, element, f"{path}[{index}]", unknown)
        return
    if not isinstance(value, dict):
        return
    properties = resolved.get("properties", {})
    additional = resolved.get("additionalProperties")
    for key in list(value):
        place = f"{path}.{key}" if path else key
        if key in properties:
            prune(value[key], properties[key], place, unknown)
        elif isinstance(additional, dict):
            prune(value[key], additional, place, unknown)
        elif additional is True or resolved.get(PRESERVE):
            continue
        elif not (resolved.get(EMBEDDED) and key in _EMBEDDED_MEMBERS):
            del value[key]
            unknown.append(place)


def fill_defaults(value: Any, schema: Schema | None) -> None:
    """Set missing members that have a default. A null where null is not allowed counts as missing."""
    resolved = resolve(schema) or {}
    if isinstance(value, list):
        element = resolved.get("items")
        if element is not None:
            for item in value:
                fill_defaults(item, element)
        return
    if not isinstance(value, dict):
        return
    for key, member in resolved.get("properties", {}).items():
        default = member.get("default")
        if default is not None:
            absent = key not in value or (value[key] is None and not member.get("nullable"))
            if absent:
                value[key] = clone(default)
        if key in value:
            fill_defaults(value[key], member)
    additional = resolved.get("additionalProperties")
    if isinstance(additional, dict):
        for key, item in value.items():
            if key not in resolved.get("properties", {}):
                fill_defaults(item, additional)


def normalise_builtin(value: Any, schema: Schema | None) -> Any:
    """A built-in object as Go's decoder reads it: nulls are absent, quantities are strings."""
    resolved = resolve(schema) or {}
    if isinstance(value, list):
        element = resolved.get("items")
        return [normalise_builtin(item, element) for item in value]
    if isinstance(value, dict):
        if resolved.get(PRESERVE):
            return value
        properties = resolved.get("properties", {})
        additional = resolved.get("additionalProperties")
        return {
            key: normalise_builtin(item, properties.get(key, additional))
            for key, item in value.items()
            if item is not None
        }
    if resolved.get("format") == "quantity" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value
