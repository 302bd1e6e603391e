"""What a change of a CRD takes away from those who wrote objects for the one before: nothing, if it is additive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
# Bounds by whether a larger value is the wider one.
_UPPER = ("maximum", "maxLength", "maxItems", "maxProperties")
_LOWER = ("minimum", "minLength", "minItems", "minProperties")
_EXCLUSIVE = ("exclusiveMinimum", "exclusiveMaximum")
_SAME = ("type", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-int-or-string")


def breaking(old: Schema, new: Schema) -> list[str]:
    """What of the CRD `old` the CRD `new` breaks; empty where it only adds."""
    found = []
    before, after = old["spec"], new["spec"]
    found += [f"spec.{key} changed" for key in ("group", "scope") if before[key] != after[key]]
    for key, value in before["names"].items():
        there = after["names"].get(key)
        if (set(value) - set(there or ())) if isinstance(value, list) else value != there:
            found.append(f"spec.names.{key} changed")
    versions = {version["name"]: version for version in after["versions"]}
    for version in before["versions"]:
        name = version["name"]
        if name not in versions or (version["served"] and not versions[name]["served"]):
            found.append(f"version {name} is gone")
        else:
            found += _version(version, versions[name])
    return found


def _version(old: Schema, new: Schema) -> Iterator[str]:
    columns = {column["name"] for column in new.get("additionalPrinterColumns", ())}
    for column in old.get("additionalPrinterColumns", ()):
        if column["name"] not in columns:
            yield f"the column {column['name']} is gone"
    for name in old.get("subresources", {}):
        if name not in new.get("subresources", {}):
            yield f"the subresource {name} is gone"
    yield from _schema(old["schema"]["openAPIV3Schema"], new["schema"]["openAPIV3Schema"], "")


def _schema(old: Schema, new: Schema, path: str) -> Iterator[str]:
    place = path or "."
    yield from (f"{place}: {word} changed" for word in _SAME if old.get(word) != new.get(word))
    yield from _narrower(old, new, place)
    for name in set(new.get("required", ())) - set(old.get("required", ())):
        yield f"{path}.{name}: newly required"
    for name, inner in old.get("properties", {}).items():
        if name in new.get("properties", {}):
            yield from _schema(inner, new["properties"][name], f"{path}.{name}")
        elif not isinstance(new.get("additionalProperties"), dict):
            yield f"{path}.{name}: gone"
    for word, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(old.get(word), dict):
            if isinstance(new.get(word), dict):
                yield from _schema(old[word], new[word], path + mark)
            else:
                yield f"{path}{mark}: gone"


def _narrower(old: Schema, new: Schema, place: str) -> Iterator[str]:
    if "enum" in new and ("enum" not in old or set(old["enum"]) - set(new["enum"])):
        yield f"{place}: fewer values"
    if "pattern" in new and not _matches_no_less(old, new["pattern"]):
        yield f"{place}: another pattern"
    if "enum" in old and "enum" not in new:
        yield from (f"{place}: {value} does not fit" for value in old["enum"] if not _fits(value, new))
        return
    for word in _UPPER:
        if word in new and (word not in old or new[word] < old[word]):
            yield f"{place}: {word} narrowed"
    for word in _LOWER:
        if word in new and new[word] > old.get(word, float("-inf") if word == "minimum" else 0):
            yield f"{place}: {word} narrowed"
    yield from (f"{place}: {word} narrowed" for word in _EXCLUSIVE if new.get(word) and not old.get(word))


def _matches_no_less(old: Schema, pattern: str) -> bool:
    """Whether `pattern` takes all values that the field had, or all alternatives that its pattern had."""
    if "enum" in old:
        return all(re.search(pattern, value) for value in old["enum"])
    return "pattern" in old and _alternatives(old["pattern"]) <= _alternatives(pattern)


def _alternatives(pattern: str) -> set[str]:
    return set(pattern.removeprefix("^(").removesuffix(")$").split("|"))


def _fits(value: object, new: Schema) -> bool:
    """Whether a value of an enumeration is within the bounds that took its place."""
    return not isinstance(value, str) or new.get("minLength", 0) <= len(value) <= new.get("maxLength", len(value))
