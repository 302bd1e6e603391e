"""Following manifests from an artifact to what it was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from finetune_api.stage import Artifact, DataPin, JobRef, Manifest, ModelManifest, ModelPin, Pins, StageInput
from finetune_cli.errors import CliError
from finetune_cli.lineage import origin
from finetune_cli.main import main

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
        objects[f"stages/{key}/manifest.json"] = text
        return hashlib.sha256(text).hexdigest()

    lora = put("lora", "LoRA", "a" * 64, {}, PINS)
    inputs = {"adapter": StageInput(stage="lora", key="a" * 64, digest=lora)}
    return objects, put("merge", "MergeAdapterWeights", "b" * 64, inputs, None)


def test_the_tree_ends_at_data_and_base_model() -> None:
    objects, digest = store()
    merge = origin(objects.__getitem__, "b" * 64, digest)
    assert merge.name == "merge (MergeAdapterWeights)"
    (lora,) = merge.made_from
    assert lora.name == "lora (LoRA)"
    assert [item.name for item in lora.made_from] == ["base model Phi3ForCausalLM", "data train"]
    assert lora.made_from[0].facts == ("digest dddddddddddd", "revision abc")
    assert lora.made_from[1].facts == ("digest eeeeeeeeeeee", "600 rows")


def test_a_manifest_that_was_changed_since_ends_it() -> None:
    objects, digest = store()
    objects[f"stages/{'a' * 64}/manifest.json"] += b" "
    with pytest.raises(CliError, match="is not the manifest that was built on"):
        origin(objects.__getitem__, "b" * 64, digest)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A store in a folder, with a published model of one artifact; the folder of its manifest."""
    objects, digest = store()
    artifact = Artifact(name="model", stage="merge", key="b" * 64, digest=digest)
    manifest = ModelManifest(job=JOB, artifacts=[artifact], pins=PINS)
    objects["models/team/tones/3/manifest.json"] = manifest.model_dump_json(by_alias=True).encode()
    for path, text in objects.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(text)
    return tmp_path / "models/team/tones/3"


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/manifest.json", "file://{}"])
def test_a_published_model_is_followed_without_a_cluster(
    published: Path, form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(published / "none"))
    assert main(["lineage", form.format(published), "-o", "json"]) == 0
    tree = json.loads(capsys.readouterr().out)["model"]
    assert [item["name"] for item in tree["madeFrom"][0]["madeFrom"]] == ["base model Phi3ForCausalLM", "data train"]
    assert main(["lineage", form.format(published), "model"]) == 0
    assert "data train" in capsys.readouterr().out


def test_a_stages_output_is_followed_too(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = published.parents[3] / "stages" / ("b" * 64)
    assert main(["lineage", f"{stage}", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["b" * 12]["name"] == "merge (MergeAdapterWeights)"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["/stages"], 2, "holds no manifest.json"),
        (["", "onnx"], 2, "has no onnx; there: model"),
    ],
)
def test_what_is_not_there_is_said(
    published: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where, *rest = words
    assert main(["lineage", f"{published}{where}", *rest]) == code
    assert said in capsys.readouterr().err


def test_a_stage_that_is_gone_or_changed_is_said(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = published.parents[3] / "stages" / ("a" * 64) / "manifest.json"
    path.write_bytes(path.read_bytes() + b" ")
    assert main(["lineage", str(published)]) == 1
    assert "is not the manifest that was built on" in capsys.readouterr().err
    path.unlink()
    assert main(["lineage", str(published)]) == 1
    assert "is missing from the store" in capsys.readouterr().err
