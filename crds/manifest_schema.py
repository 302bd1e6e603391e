"""JSON Schema of what lies in the store: a stage's manifest, and a published model's."""

from __future__ import annotations

from typing import Any

from finetune_api.base import Model
from finetune_api.stage import Manifest, ModelManifest

Schema = dict[str, Any]
# Raised with the format; a schema of this version is right for all earlier ones too.
VERSION = 2
SCHEMAS: dict[str, type[Model]] = {"stage-manifest": Manifest, "model-manifest": ModelManifest}


def manifest_schema(model: type[Model]) -> Schema:
    """The schema of `model` as the store holds it: closed, in camelCase."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Generated from crds/finetune_api/stage.py by `make crds`; do not edit.",
        **model.model_json_schema(by_alias=True),
    }
