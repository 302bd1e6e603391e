"""JSON schemas of the kinds: walking them, and what Kubernetes' extensions in them are called.

A schema is a plain dict, as in a CRD. Those of built-in kinds refer to each other by `$ref`; every function
here follows such references by itself.
"""

from __future__ import annotations

from typing import Any

from finetune_local.apiserver.schemas.builtin import definition

INT_OR_STRING = "x-kubernetes-int-or-string"
PRESERVE = "x-kubernetes-preserve-unknown-fields"
EMBEDDED = "x-kubernetes-embedded-resource"
LIST_TYPE = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"
MAP_TYPE = "x-kubernetes-map-type"
PATCH_KEY = "x-kubernetes-patch-merge-key"
PATCH_STRATEGY = "x-kubernetes-patch-strategy"
RULES = "x-kubernetes-validations"

Schema = dict[str, Any]


def resolve(schema: Schema | None) -> Schema | None:
    """The schema itself, or the definition that it refers to together with what stands beside `$ref`."""
    if schema is None or "$ref" not in schema:
        return schema
    target = definition(schema["$ref"])
    beside = {key: value for key, value in schema.items() if key not in ("$ref", "description")}
    return {**target, **beside} if beside else target


def child(schema: Schema | None, key: str) -> Schema | None:
    """The schema of an object's member, None where the schema says nothing of it."""
    resolved = resolve(schema)
    if resolved is None:
        return None
    member = resolved.get("properties", {}).get(key)
    if member is not None:
        return member
    additional = resolved.get("additionalProperties")
    return additional if isinstance(additional, dict) else None


def items(schema: Schema | None) -> Schema | None:
    """The schema of a list's elements."""
    resolved = resolve(schema)
    return resolved.get("items") if resolved else None


def list_type(schema: Schema | None) -> str:
    """`atomic`, `set` or `map`: how a list is merged by server-side apply."""
    return (resolve(schema) or {}).get(LIST_TYPE, "atomic")


def list_keys(schema: Schema | None) -> list[str]:
    """The members that identify an element of a list of type `map`."""
    return (resolve(schema) or {}).get(LIST_KEYS, [])
