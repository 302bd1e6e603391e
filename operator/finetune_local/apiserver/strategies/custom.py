"""Custom resources: the schema and the rules of their definition."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from finetune_local.apiserver.errors import Cause, bad_request, invalid_value
from finetune_local.apiserver.objects import Object
from finetune_local.apiserver.schemas import Schema
from finetune_local.apiserver.schemas.builtin import REF, models
from finetune_local.apiserver.schemas.pruning import fill_defaults, prune
from finetune_local.apiserver.schemas.validation import MISSING, validate
from finetune_local.apiserver.strategies.base import Decoded, Strategy

if TYPE_CHECKING:
    from finetune_local.apiserver.cel.rules import Rules
    from finetune_local.apiserver.resources import Resource

_NOT_CHECKED = (
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


def full_schema(schema: Schema) -> Schema:
    """A CRD's schema with what every object has: apiVersion, kind and metadata."""
    envelope = {
        "apiVersion": {"type": "string", "description": _ENVELOPE["apiVersion"]},
        "kind": {"type": "string", "description": _ENVELOPE["kind"]},
        "metadata": {"$ref": REF + models()["V1ObjectMeta"], "description": "Standard object's metadata."},
    }
    return {**schema, "properties": {**schema.get("properties", {}), **envelope}}


_ENVELOPE = {
    "apiVersion": "APIVersion defines the versioned schema of this representation of an object.",
    "kind": "Kind is a string value representing the REST resource this object represents.",
}


class CustomStrategy(Strategy):
    """The rules of one version of a custom resource."""

    def __init__(self, schema: Schema, has_status: bool) -> None:
        self._schema = full_schema(schema)
        self._rules_schema = schema
        self._has_status = has_status

    @property
    def schema(self) -> Schema:
        return self._schema

    @cached_property
    def _rules(self) -> Rules:
        # The expression language is slow to import, and many definitions have no rules.
        from finetune_local.apiserver.cel.rules import Rules  # noqa: PLC0415

        return Rules(self._rules_schema)

    @cached_property
    def _has_rules(self) -> bool:
        return _mentions_rules(self._rules_schema)

    def decode(self, resource: Resource, body: Object, *, defaults: bool = True) -> Decoded:
        unknown: list[str] = []
        metadata = body.get("metadata", {})
        for cause in validate(metadata, self._schema["properties"]["metadata"], "metadata"):
            if cause.reason == "FieldValueTypeInvalid":
                raise bad_request(
                    f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {cause}'
                )
        prune(body, self._schema, "", unknown)
        if defaults:
            fill_defaults(body, self._schema)
        return Decoded(body, unknown)

    def prepare_create(self, obj: Object) -> None:
        if self._has_status:
            obj.pop("status", None)

    def bumps_generation(self, new: Object, old: Object) -> bool:
        ignored = ("metadata", "status") if self._has_status else ("metadata",)
        return any(new.get(key) != old.get(key) for key in (new.keys() | old.keys()) if key not in ignored)

    def has_generation(self, obj: Object) -> bool:
        return True

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        before: Any = MISSING if old is None else old
        causes = validate(_content(new), self._rules_schema, "", _content(before))
        if not self._has_rules:
            return causes
        if causes:
            return [*causes, invalid_value("<nil>", "null", _NOT_CHECKED)]
        return self._rules.check(new, old)


def _content(obj: Any) -> Any:
    """An object as a definition's schema sees it: of its metadata, only the names may be restricted."""
    if obj is MISSING:
        return MISSING
    names = {key: obj["metadata"][key] for key in ("generateName", "name") if key in obj["metadata"]}
    return {**obj, "metadata": names}


def _mentions_rules(schema: Any) -> bool:
    if isinstance(schema, dict):
        return "x-kubernetes-validations" in schema or any(map(_mentions_rules, schema.values()))
    return isinstance(schema, list) and any(map(_mentions_rules, schema))
