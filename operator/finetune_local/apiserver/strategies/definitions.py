"""CustomResourceDefinitions: defaults, validation and the conditions that say they are served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune_local.apiserver.errors import Cause, invalid_value, required, unsupported_value
from finetune_local.apiserver.objects import Object, lookup, now
from finetune_local.apiserver.schemas import PRESERVE, RULES
from finetune_local.apiserver.strategies.base import BuiltinStrategy

if TYPE_CHECKING:
    from finetune_local.apiserver.resources import Resource

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
"""Keeps a deleted definition until its last object is gone."""


class DefinitionStrategy(BuiltinStrategy):
    def prepare_create(self, obj: Object) -> None:
        self._fill(obj)
        obj["metadata"].setdefault("finalizers", []).append(CLEANUP)
        stamp = now()
        obj["status"] = {
            "acceptedNames": obj["spec"]["names"],
            "conditions": [
                _true("NamesAccepted", "NoConflicts", "no conflicts found", stamp),
                _true("Established", "InitialNamesAccepted", "the initial names have been accepted", stamp),
            ],
            "storedVersions": [v["name"] for v in obj["spec"].get("versions", ()) if v.get("storage")],
        }

    def prepare_update(self, new: Object, old: Object) -> None:
        self._fill(new)

    def _fill(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        names = spec.setdefault("names", {})
        names.setdefault("singular", str(names.get("kind", "")).lower())
        names.setdefault("listKind", f"{names.get('kind', '')}List")
        spec.setdefault("conversion", {"strategy": "None"})

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(resource, new, old)
        if causes:
            return causes
        spec = new["spec"]
        expected = f"{spec['names']['plural']}.{spec['group']}"
        if new["metadata"]["name"] != expected:
            text = f'must be spec.names.plural+"."+spec.group, that is {expected}'
            causes.append(invalid_value("metadata.name", new["metadata"]["name"], text))
        if spec.get("scope") not in ("Cluster", "Namespaced"):
            causes.append(unsupported_value("spec.scope", spec.get("scope", ""), ("Cluster", "Namespaced")))
        stored = [version["name"] for version in spec.get("versions", ()) if version.get("storage")]
        if len(stored) != 1:
            text = "must have exactly one version marked as storage version"
            causes.append(invalid_value("spec.versions", stored, text))
        for index, version in enumerate(spec.get("versions", ())):
            path = f"spec.versions[{index}].schema.openAPIV3Schema"
            schema = lookup(version, "schema", "openAPIV3Schema")
            if schema is None:
                causes.append(required(path, "schemas are required"))
            else:
                causes += structural_causes(schema, path) or rule_causes(schema, path)
        return causes


def _true(kind: str, reason: str, message: str, stamp: str) -> Object:
    return {
        "lastTransitionTime": stamp,
        "message": message,
        "reason": reason,
        "status": "True",
        "type": kind,
    }


def rule_causes(schema: Any, path: str) -> list[Cause]:
    """The validation rules of a schema that cannot be compiled."""
    causes: list[Cause] = []
    if isinstance(schema, dict):
        for index, rule in enumerate(schema.get(RULES, ())):
            causes += _compile_causes(rule, f"{path}.x-kubernetes-validations[{index}]")
        for key, member in (schema.get("properties") or {}).items():
            causes += rule_causes(member, f"{path}.properties[{key}]")
        for member in ("items", "additionalProperties"):
            causes += rule_causes(schema.get(member), f"{path}.{member}")
    return causes


def _compile_causes(rule: dict[str, Any], path: str) -> list[Cause]:
    # Slow to import, and many definitions have no rules.
    from finetune_local.apiserver.cel.compiler import CelSyntaxError, compile_expression  # noqa: PLC0415

    causes = []
    for member in ("rule", "messageExpression"):
        if member in rule:
            try:
                compile_expression(rule[member], frozenset({"self", "oldSelf"}))
            except CelSyntaxError as error:
                text = f"compilation failed: {error}"
                causes.append(invalid_value(f"{path}.{member}", rule[member], text))
    return causes


def structural_causes(schema: Any, path: str) -> list[Cause]:
    """Why a schema is not structural, https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/
    custom-resource-definitions/#specifying-a-structural-schema, as far as this server relies on it."""
    causes: list[Cause] = []
    if not isinstance(schema, dict):
        return [invalid_value(path, schema, "must be a schema object")]
    typed = "type" in schema or schema.get("x-kubernetes-int-or-string") or schema.get(PRESERVE)
    if not typed:
        causes.append(required(f"{path}.type", "must not be empty for specified object fields"))
    if schema.get("type") == "array" and "items" not in schema:
        causes.append(required(f"{path}.items", "must be specified"))
    if "properties" in schema and "additionalProperties" in schema:
        text = "Forbidden: additionalProperties and properties are mutual exclusive"
        causes.append(Cause("FieldValueForbidden", f"{path}.additionalProperties", text))
    causes += _list_key_causes(schema, path)
    if schema.get("uniqueItems"):
        text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        causes.append(Cause("FieldValueForbidden", f"{path}.uniqueItems", text))
    for key, member in (schema.get("properties") or {}).items():
        causes += structural_causes(member, f"{path}.properties[{key}]")
    for member in ("items", "additionalProperties"):
        if isinstance(schema.get(member), dict):
            causes += structural_causes(schema[member], f"{path}.{member}")
    return causes


def _list_key_causes(schema: Any, path: str) -> list[Cause]:
    """What is wrong with the members by which the elements of a list-map are told apart."""
    if schema.get("x-kubernetes-list-type") != "map":
        return []
    keys = schema.get("x-kubernetes-list-map-keys")
    if not keys:
        return [required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if list-type is map")]
    members = lookup(schema, "items", "properties") or {}
    always = lookup(schema, "items", "required") or ()
    causes: list[Cause] = []
    for index, key in enumerate(keys):
        if key not in members:
            place = f"{path}.x-kubernetes-list-map-keys[{index}]"
            causes.append(invalid_value(place, key, "entries must all be names of item properties"))
        elif key not in always and "default" not in members[key]:
            text = "is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            causes.append(required(f"{path}.items.properties[{key}].default", f"this property {text}"))
    return causes
