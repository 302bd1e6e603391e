"""JSON Schema for editors: completion, help and errors while a FinetuneJob is written (yaml-language-server)."""

from __future__ import annotations

from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.job import JobSpec
from finetune_api.passes import PASS_TYPES
from finetune_api.structural import structural

Schema = dict[str, Any]


def editor_schema() -> Schema:
    """The schema of a FinetuneJob's YAML. Stricter than the CRD's: a pass knows its own type's fields alone."""
    spec = structural(
        JobSpec, "What the job asks for.", special={"passes": lambda info: _passes(info.description or "")}
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": KIND,
        "description": "Generated from crds/finetune_api by `make crds`; do not edit.",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": KIND},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}},
            "spec": closed(spec),
            "status": {"type": "object", "description": "Written by the operator."},
        },
    }


def _passes(description: str) -> Schema:
    branches = [
        {"if": {"properties": {"type": {"const": name}}}, "then": structural(model, "")}
        for name, model in PASS_TYPES.items()
    ]
    item = {"type": "object", "required": ["name", "type"], "properties": {"type": {"enum": list(PASS_TYPES)}}}
    return {
        "type": "array",
        "description": description,
        "minItems": 1,
        "maxItems": 16,
        "items": {**item, "allOf": branches, "additionalProperties": True},
    }


def closed(schema: Any) -> Any:
    """`schema` in JSON Schema's own words: closed objects, exclusive bounds as numbers, nothing of Kubernetes'."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(item) for key, item in schema.items() if not key.startswith("x-kubernetes-")}
    for bound in ("Minimum", "Maximum"):
        if result.pop(f"exclusive{bound}", False):
            result[f"exclusive{bound}"] = result.pop(bound.lower())
    if result.get("type") == "object" and "properties" in result:
        result.setdefault("additionalProperties", False)
    return result
