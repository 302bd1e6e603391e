"""Following manifests from an artifact to what it was made from."""

from __future__ import annotations

import hashlib

import pytest

from finetune_api.stage import DataPin, JobRef, Manifest, ModelPin, Pins, StageInput
from finetune_cli.errors import CliError
from finetune_cli.lineage import origin

ROOT = "s3://bucket/root"
JOB = JobRef(namespace="team", name="tones", uid="u", generation=3)
PINS = Pins(
    model=ModelPin(digest="d" * 64, revision="abc", architecture="Phi3ForCausalLM"),
    data={"train": DataPin(digest="e" * 64, rows=600)},
)


def store() -> tuple[dict[str, bytes], str]:
    """A merge over a LoRA in a store, and the digest of the merge's manifest."""
    objects: dict[str, bytes] = {}

    def put(stage: str, kind: str, key: str, inputs: dict[str, StageInput], pins: Pins | None) -> str:
        manifest = Manifest(
            stage=stage,
            type=kind,
            key=key,
            attempt="a1",
            job=JOB,
            inputs=inputs,
            pins=pins,
            files=[],
            started_at="2026-11-23T10:00:00Z",
            finished_at="2026-11-23T10:01:00Z",
        )
        text = manifest.model_dump_json(by_alias=True).encode()
        objects[f"{ROOT}/stages/{key}/manifest.json"] = text
        return hashlib.sha256(text).hexdigest()

    lora = put("lora", "LoRA", "a" * 64, {}, PINS)
    inputs = {"adapter": StageInput(stage="lora", key="a" * 64, digest=lora)}
    return objects, put("merge", "MergeAdapterWeights", "b" * 64, inputs, None)


def test_the_tree_ends_at_data_and_base_model() -> None:
    objects, digest = store()
    merge = origin(objects.__getitem__, ROOT, "b" * 64, digest)
    assert merge.name == "merge (MergeAdapterWeights)"
    (lora,) = merge.made_from
    assert lora.name == "lora (LoRA)"
    assert [item.name for item in lora.made_from] == ["base model Phi3ForCausalLM", "data train"]
    assert lora.made_from[0].facts == ("digest dddddddddddd", "revision abc")
    assert lora.made_from[1].facts == ("digest eeeeeeeeeeee", "600 rows")


def test_a_manifest_that_was_changed_since_ends_it() -> None:
    objects, digest = store()
    objects[f"{ROOT}/stages/{'a' * 64}/manifest.json"] += b" "
    with pytest.raises(CliError, match="is not the manifest that was built on"):
        origin(objects.__getitem__, ROOT, "b" * 64, digest)
