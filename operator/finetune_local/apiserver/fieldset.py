"""Sets of fields, in the form in which `managedFields` holds them (FieldsV1).

A set is a nested dict: `f:<name>` stands for a member of an object, `k:<keys as JSON>` for an element of a list
of type map, `v:<value as JSON>` for one of type set; `{}` ends a path, and `.` says that a node with members below
it belongs to the set too. Objects are entered, lists of type atomic and objects marked atomic are not. See
https://github.com/kubernetes-sigs/structured-merge-diff
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from finetune_local.apiserver.schemas import MAP_TYPE, Schema, child, items, list_keys, list_type, resolve

FieldSet = dict[str, Any]

SELF = "."


def is_entered(value: Any, schema: Schema | None) -> bool:
    """Whether the parts of a value have owners of their own."""
    if isinstance(value, dict):
        return (resolve(schema) or {}).get(MAP_TYPE) != "atomic"
    return isinstance(value, list) and list_type(schema) in ("map", "set")


def parts(value: Any, schema: Schema | None) -> Iterator[tuple[str, Any, Schema | None]]:
    """The parts of a value that is entered: path element, the part's value and its schema."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"f:{key}", item, child(schema, key)
    elif list_type(schema) == "map":
        element = items(schema)
        for item in value:
            yield _identity(item, schema, element), item, element
    else:
        for item in value:
            yield f"v:{json.dumps(item, separators=(',', ':'))}", item, items(schema)


def _identity(item: Any, schema: Schema | None, element: Schema | None) -> str:
    keys = {}
    for key in list_keys(schema):
        value = item.get(key, (child(element, key) or {}).get("default"))
        if value is not None:
            keys[key] = value
    return f"k:{json.dumps(keys, sort_keys=True, separators=(',', ':'))}"


def fields_of(value: Any, schema: Schema | None) -> FieldSet:
    """Every field of a value."""
    if not is_entered(value, schema):
        return {}
    found: FieldSet = {}
    for element, part, part_schema in parts(value, schema):
        below = fields_of(part, part_schema)
        found[element] = {SELF: {}, **below} if element.startswith("k:") else below
    return found


def difference(before: Any, after: Any, schema: Schema | None) -> tuple[FieldSet, FieldSet]:
    """The fields that were added or changed, and those that were removed."""
    if before == after:
        return {}, {}
    old = {element: (part, below) for element, part, below in parts(before, schema)}
    changed: FieldSet = {}
    removed: FieldSet = {}
    for element, part, below in parts(after, schema):
        if element not in old:
            added = fields_of(part, below)
            changed[element] = {SELF: {}, **added} if element.startswith("k:") else added
            continue
        former, _ = old.pop(element)
        if former == part:
            continue
        alike = type(former) is type(part) and is_entered(part, below) and is_entered(former, below)
        if not alike or not former or not part:
            changed[element] = fields_of(part, below)
            continue
        deeper_changed, deeper_removed = difference(former, part, below)
        if deeper_changed:
            changed[element] = deeper_changed
        if deeper_removed:
            removed[element] = deeper_removed
    for element in old:
        removed[element] = {}
    return changed, removed


def union(left: FieldSet, right: FieldSet) -> FieldSet:
    merged = dict(left)
    for element, below in right.items():
        if element not in merged:
            merged[element] = below
        elif merged[element] != below:
            # A path that ends here on one side only is a member that also has members below it.
            ends: FieldSet = {} if merged[element] and below else {SELF: {}}
            merged[element] = union(union(merged[element], below), ends)
    return merged


def without(fields: FieldSet, taken: FieldSet) -> FieldSet:
    """`fields` less what `taken` holds; a path that ends in `taken` takes all below it along."""
    rest: FieldSet = {}
    for element, below in fields.items():
        if element not in taken:
            rest[element] = below
        elif taken[element] and below:
            kept = without(below, taken[element])
            if kept:
                rest[element] = kept
    return rest


def exactly_without(fields: FieldSet, taken: FieldSet) -> FieldSet:
    """`fields` less the very paths in `taken`: an end takes away neither what is below nor above it."""
    rest: FieldSet = {}
    for element, below in fields.items():
        if element not in taken:
            rest[element] = below
            continue
        kept = exactly_without(below, taken[element])
        if kept:
            rest[element] = kept
    return rest


def paths(fields: FieldSet, prefix: str = "") -> Iterator[str]:
    """The set's paths as kubectl prints them: `.spec.containers[name="a"].image`."""
    for element, below in fields.items():
        if element == SELF:
            yield prefix
            continue
        place = prefix + _printed(element)
        if below:
            yield from paths(below, place)
        else:
            yield place


def _printed(element: str) -> str:
    kind, _, text = element.partition(":")
    if kind == "f":
        return f".{text}"
    if kind == "v":
        return f"[={text}]"
    listed = ",".join(f"{key}={json.dumps(value)}" for key, value in sorted(json.loads(text).items()))
    return f"[{listed}]"


def remove(value: Any, fields: FieldSet, schema: Schema | None) -> Any:
    """`value` less the fields. What becomes empty by that goes too (None is returned for it)."""
    kept: list[tuple[str, Any]] = []
    for element, part, below in parts(value, schema):
        taken = fields.get(element)
        if taken is None:
            kept.append((element, part))
        elif taken and SELF not in taken and is_entered(part, below):
            rest = remove(part, taken, below)
            if rest is not None:
                kept.append((element, rest))
    if not kept:
        return None
    if isinstance(value, dict):
        return {element.removeprefix("f:"): part for element, part in kept}
    return [part for _, part in kept]
