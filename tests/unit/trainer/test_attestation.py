"""The statement about what is published: in-toto's form, SLSA's predicate, and true to the manifests."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from finetune_api.keys import canonical
from finetune_api.stage import Artifact, DataPin, JobRef, Manifest, ManifestFile, ModelPin, Pins, StageInput
from finetune_trainer.attestation import statement

JOB = JobRef(namespace="team", name="tones", uid="the-uid", generation=3)
PINS = Pins(model=ModelPin(digest="1" * 64, revision="c0ffee"), data={"train": DataPin(digest="2" * 64, rows=9)})
SPEC = {"inputModel": {"modelPath": "microsoft/phi"}, "dataConfigs": [{"name": "train"}, {"name": "unused"}]}
IMAGE = f"registry.example/trainer@sha256:{'9' * 64}"


def manifest(stage: str, key: str, started: str, **fields: Any) -> Manifest:
    files = [ManifestFile(path=f"{stage}.bin", size=1, sha256=key * 64)]
    times = {"started_at": started, "finished_at": f"{started}+"}
    return Manifest(stage=stage, type="T", key=key * 64, attempt="one", job=JOB, files=files, **times, **fields)


@pytest.fixture
def made() -> dict[str, Any]:
    lora = manifest("lora", "a", "2026-01-01", image=IMAGE, gpus=1, versions={"torch": "2.13.0"})
    upstream = {"adapter": StageInput(stage="lora", key="a" * 64, digest=digest(lora))}
    merge = manifest("merge", "b", "2026-01-02", inputs=upstream, versions={"torch": "2.12.0"})
    artifact = Artifact(name="model", stage="merge", key="b" * 64, digest=digest(merge))
    stages = {item.key: (digest(item), item) for item in (merge, lora)}
    return statement(JOB, SPEC, PINS, [artifact], stages, "s3://bucket/out/")


def digest(item: Manifest) -> str:
    return hashlib.sha256(canonical(item.wire())).hexdigest()


def test_it_is_a_statement_of_provenance(made: dict[str, Any]) -> None:
    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"
    assert set(made) == {"_type", "subject", "predicateType", "predicate"}
    definition, details = made["predicate"]["buildDefinition"], made["predicate"]["runDetails"]
    assert set(definition) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert set(details) == {"builder", "metadata", "byproducts"}
    assert details["builder"]["id"]
    assert definition["buildType"].startswith("https://")


def test_its_subjects_are_the_artifacts_files(made: dict[str, Any]) -> None:
    assert made["subject"] == [{"name": "model/merge.bin", "digest": {"sha256": "b" * 64}}]


def test_it_names_all_that_went_in(made: dict[str, Any]) -> None:
    assert made["predicate"]["buildDefinition"]["resolvedDependencies"] == [
        {
            "name": "inputModel",
            "uri": "pkg:huggingface/microsoft/phi",
            "digest": {"finetunePin": "1" * 64, "gitCommit": "c0ffee"},
        },
        {"name": "data/train", "digest": {"finetunePin": "2" * 64}},
        {"name": "image", "uri": f"docker://{IMAGE}", "digest": {"sha256": "9" * 64}},
    ]
    assert made["predicate"]["buildDefinition"]["externalParameters"] == {"spec": SPEC}


def test_it_names_every_stage_in_order(made: dict[str, Any]) -> None:
    details = made["predicate"]["runDetails"]
    assert [item["name"] for item in details["byproducts"]] == ["lora", "merge"]
    assert details["byproducts"][0]["uri"] == f"s3://bucket/out/stages/{'a' * 64}/manifest.json"
    assert details["metadata"] == {
        "invocationId": "the-uid/3",
        "startedOn": "2026-01-01",
        "finishedOn": "2026-01-02+",
    }
    assert details["builder"]["version"] == {"torch": "2.12.0, 2.13.0"}
