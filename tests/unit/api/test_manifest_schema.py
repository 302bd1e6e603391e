"""The manifests' JSON Schema, held to what is in stores: manifests of now, and of every earlier version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from finetune_api.stage import Manifest, ModelManifest

ROOT = Path(__file__).parents[3]
SCHEMAS = ROOT / "docs" / "schemas"
SAMPLES = sorted((ROOT / "tests" / "golden" / "manifests").glob("*.json"))


def schema(kind: str) -> Any:
    return json.loads((SCHEMAS / f"{kind}.v2.json").read_text())


def kind_of(path: Path) -> str:
    return path.name.rpartition(".v")[0]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_manifests_that_were_published_are_right_and_read(path: Path) -> None:
    body = path.read_bytes()
    jsonschema.Draft202012Validator(schema(kind_of(path))).validate(json.loads(body))
    model = {"stage-manifest": Manifest, "model-manifest": ModelManifest}[kind_of(path)]
    assert model.model_validate_json(body).wire().items() >= json.loads(body).items()


def test_there_are_samples_of_each_version() -> None:
    assert {(kind_of(path), json.loads(path.read_text())["version"]) for path in SAMPLES} == {
        (kind, version) for kind in ("stage-manifest", "model-manifest") for version in (1, 2)
    }


@pytest.mark.parametrize("kind", ["stage-manifest", "model-manifest"])
def test_every_field_is_described(kind: str) -> None:
    found = schema(kind)
    jsonschema.Draft202012Validator.check_schema(found)
    objects = {kind: found, **found["$defs"]}
    bare = [f"{name}.{field}" for name, item in objects.items() for field, of in item.get("properties", {}).items()
            if "description" not in of]  # fmt: skip
    assert bare == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", 3), ("key", "short"), ("files", [{"path": "a", "size": -1, "sha256": "0" * 64}]), ("extra", 1)],
)
def test_what_is_no_manifest_is_refused(field: str, value: Any) -> None:
    sample = json.loads(next(path for path in SAMPLES if path.name == "stage-manifest.v2.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema("stage-manifest")).validate({**sample, field: value})
