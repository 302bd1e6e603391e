"""Structural schema validation, with the error texts of a real API server.

A validator of our own rather than jsonschema: the texts, the paths and the reasons are what kubectl's users and
our own tests read, and parts that a write leaves as they are must not be checked again ("ratcheting", which also
makes status updates cheap). See
https://github.com/kubernetes/kube-openapi/tree/master/pkg/validation/validate
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
import uuid
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Any

from finetune_local.apiserver.errors import (
    Cause,
    duplicate_value,
    invalid_value,
    required,
    too_long,
    too_many,
    unsupported_value,
    wrong_type,
)
from finetune_local.apiserver.objects import parse_time
from finetune_local.apiserver.schemas import INT_OR_STRING, LIST_KEYS, LIST_TYPE, Schema, resolve

MISSING: Any = object()
"""Stands for the old value of what was not there before."""


def validate(value: Any, schema: Schema, path: str, old: Any = MISSING) -> list[Cause]:
    """What is wrong with `value`. Parts equal to `old` are taken as they are."""
    if old is not MISSING and value == old:
        return []
    resolved = resolve(schema) or {}
    if value is None and resolved.get("nullable"):
        return []
    causes = _type_causes(value, resolved, path)
    if causes:
        return causes
    causes = _enum_causes(value, resolved, path)
    if isinstance(value, str):
        causes += _string_causes(value, resolved, path)
    elif isinstance(value, dict):
        causes += _object_causes(value, resolved, path, old)
    elif isinstance(value, list):
        causes += _list_causes(value, resolved, path, old)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        causes += _number_causes(value, resolved, path)
    return causes + _combination_causes(value, resolved, path)


def type_name(value: Any) -> str:
    """The JSON schema name of a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _type_causes(value: Any, schema: Schema, path: str) -> list[Cause]:
    actual = type_name(value)
    if schema.get(INT_OR_STRING):
        expected = None if actual in ("integer", "string") else "integer,string"
    else:
        expected = schema.get("type")
        whole = actual == "number" and value.is_integer()
        matches = actual == expected or (expected == "number" and actual == "integer")
        if matches or expected is None or (expected == "integer" and whole):
            expected = None
    if expected is None:
        return []
    return [wrong_type(path or "<nil>", actual, f'{path} in body must be of type {expected}: "{actual}"')]


def _enum_causes(value: Any, schema: Schema, path: str) -> list[Cause]:
    allowed = schema.get("enum")
    if allowed is None or value in allowed:
        return []
    return [unsupported_value(path, value, allowed)]


def _string_causes(value: str, schema: Schema, path: str) -> list[Cause]:
    causes = []
    if len(value) > schema.get("maxLength", len(value)):
        causes.append(too_long(path, schema["maxLength"]))
    if len(value) < schema.get("minLength", 0):
        text = f"{path} in body should be at least {schema['minLength']} chars long"
        causes.append(invalid_value(path, value, text))
    pattern = schema.get("pattern")
    if pattern and not _compiled(pattern).search(value):
        causes.append(invalid_value(path, value, f"{path} in body should match '{pattern}'"))
    known = _FORMATS.get(schema.get("format", ""))
    if known is not None and not _parses(known, value):
        text = f'{path} in body must be of type {schema["format"]}: "{value}"'
        causes.append(wrong_type(path, value, text))
    return causes


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _parses(parse: Callable[[str], object], value: str) -> bool:
    try:
        parse(value)
    except (ValueError, binascii.Error):
        return False
    return True


_FORMATS: dict[str, Callable[[str], object]] = {
    "byte": lambda text: base64.b64decode(text, validate=True),
    "date": date.fromisoformat,
    "date-time": parse_time,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "cidr": ipaddress.ip_network,
    "uuid": uuid.UUID,
}


def _number_causes(value: float, schema: Schema, path: str) -> list[Cause]:
    causes = []
    if "minimum" in schema:
        exclusive = schema.get("exclusiveMinimum", False)
        if value < schema["minimum"] or (exclusive and value == schema["minimum"]):
            text = "greater than" if exclusive else "greater than or equal to"
            causes.append(invalid_value(path, value, f"{path} in body should be {text} {schema['minimum']}"))
    if "maximum" in schema:
        exclusive = schema.get("exclusiveMaximum", False)
        if value > schema["maximum"] or (exclusive and value == schema["maximum"]):
            text = "less than" if exclusive else "less than or equal to"
            causes.append(invalid_value(path, value, f"{path} in body should be {text} {schema['maximum']}"))
    if "multipleOf" in schema and not float(value / schema["multipleOf"]).is_integer():
        text = f"{path} in body should be a multiple of {schema['multipleOf']}"
        causes.append(invalid_value(path, value, text))
    return causes


def _object_causes(value: dict[str, Any], schema: Schema, path: str, old: Any) -> list[Cause]:
    causes = []
    count = len(value)
    if count > schema.get("maxProperties", count):
        causes.append(too_many(path, count, schema["maxProperties"]))
    if count < schema.get("minProperties", 0):
        text = f"{path} in body should have at least {schema['minProperties']} properties"
        causes.append(invalid_value(path, count, text))
    for key in schema.get("required", ()):
        if key not in value:
            causes.append(required(_join(path, key)))
    before = old if isinstance(old, dict) else {}
    properties = schema.get("properties", {})
    additional = schema.get("additionalProperties")
    for key, item in value.items():
        member = properties.get(key, additional)
        if isinstance(member, dict):
            causes += validate(item, member, _join(path, key), before.get(key, MISSING))
    return causes


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _list_causes(value: list[Any], schema: Schema, path: str, old: Any) -> list[Cause]:
    causes = []
    count = len(value)
    if count > schema.get("maxItems", count):
        causes.append(too_many(path, count, schema["maxItems"]))
    if count < schema.get("minItems", 0):
        text = f"{path} in body should have at least {schema['minItems']} items"
        causes.append(invalid_value(path, count, text))
    causes += _duplicates(value, schema, path)
    before = old if isinstance(old, list) else []
    element = schema.get("items")
    if element is not None:
        for index, item in enumerate(value):
            former = before[index] if index < len(before) else MISSING
            causes += validate(item, element, f"{path}[{index}]", former)
    return causes


def _duplicates(value: list[Any], schema: Schema, path: str) -> list[Cause]:
    kind = schema.get(LIST_TYPE, "set" if schema.get("uniqueItems") else "atomic")
    if kind not in ("map", "set"):
        return []
    causes = []
    seen = set()
    defaults = {
        key: member.get("default") for key, member in (resolve(schema.get("items")) or {}).get("properties", {}).items()
    }
    for index, item in enumerate(value):
        identity = item
        if kind == "map" and isinstance(item, dict):
            identity = {key: item.get(key, defaults.get(key)) for key in schema.get(LIST_KEYS, ())}
        text = json.dumps(identity, sort_keys=True)
        if text in seen:
            causes.append(duplicate_value(f"{path}[{index}]", identity))
        seen.add(text)
    return causes


def _combination_causes(value: Any, schema: Schema, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for part in schema.get("allOf", ()):
        causes += validate(value, part, path)
    if "anyOf" in schema and not any(not validate(value, part, path) for part in schema["anyOf"]):
        causes.append(invalid_value(path, "", f'"{path}" must validate at least one schema (anyOf)'))
    if "oneOf" in schema:
        valid = sum(not validate(value, part, path) for part in schema["oneOf"])
        if valid != 1:
            found = "Found none valid" if not valid else f"Found {valid} valid alternatives"
            text = f'"{path}" must validate one and only one schema (oneOf). {found}'
            causes.append(invalid_value(path, "", text))
    if "not" in schema and not validate(value, schema["not"], path):
        causes.append(invalid_value(path, "", f'"{path}" must not validate the schema (not)'))
    return causes
