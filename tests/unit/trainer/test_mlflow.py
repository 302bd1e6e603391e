"""MLflow's folders of transformers models, from the store and from a volume, as mlflow.transformers saves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.fetch import fetch_base
from finetune_trainer.mlflow import layout_of

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
FLAVOR = {
    "code": None,
    "components": ["tokenizer"],
    "framework": "pt",
    "instance_type": "TextGenerationPipeline",
    "model_binary": "model",
    "pipeline_model_type": "Phi3ForCausalLM",
    "source_model_name": "microsoft/Phi-3-mini-4k-instruct",
    "task": "text-generation",
    "tokenizer_type": "LlamaTokenizerFast",
    "torch_dtype": "torch.float32",
    "transformers_version": "5.23.0",
}
AZURE = {"code": None, "hf_pretrained_class": "AutoModelForCausalLM", "model_data": "data", "task_type": "chat"}


def mlmodel(flavors: dict) -> str:
    content = {
        "artifact_path": "model",
        "flavors": {"python_function": {"loader_module": "mlflow.transformers"}, **flavors},
        "mlflow_version": "3.4.0",
        "model_uuid": "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "utc_time_created": "2026-05-01 10:00:00.000000",
    }
    return yaml.safe_dump(content)


def save_model(source: Path, folder: Path) -> Path:
    """`source` in the layout of mlflow.transformers.save_model."""
    for path in source.iterdir():
        place = folder / ("components/tokenizer" if path.name in TOKENIZER else "model") / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    (folder / "MLmodel").write_text(mlmodel({"transformers": FLAVOR}))
    (folder / "requirements.txt").write_text("mlflow==3.4.0\ntransformers==5.23.0\n")
    (folder / "conda.yaml").write_text("name: mlflow-env\n")
    (folder / "python_env.yaml").write_text("python: 3.11.9\n")
    return folder


def test_a_model_of_mlflow_in_the_store_is_the_model_that_was_saved(world, tiny_model, tmp_path):
    before = world.prepare().prepared.pins
    world.s3.put_folder(f"{world.prefix}/mlflow", save_model(tiny_model, tmp_path / "mlflow"))
    world.spec["inputModel"]["modelPath"] = f"{world.prefix}/mlflow"
    prepared = world.prepare().prepared
    assert prepared.pins == before, "the same files, so all that is done is found again"
    assert "mlflow is an MLflow transformers folder: components/tokenizer/, model/" in world.log
    folder = fetch_base(world.place(world.prepare_document(pins=prepared.pins)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents(tiny_model)


def test_a_model_of_mlflow_on_a_volume_is_arranged_by_links(world, tiny_model, tmp_path):
    world.sources = tmp_path / "sources"
    save_model(tiny_model, world.sources / "pvc" / "claim" / "runs" / "model")
    world.spec["inputModel"]["modelPath"] = "pvc://claim/runs/model"
    prepared = world.prepare().prepared
    assert "an MLflow transformers folder" in world.log
    folder = fetch_base(world.place(world.prepare_document(pins=prepared.pins)))
    assert all(path.is_symlink() for path in folder.iterdir())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents(tiny_model)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def layout(flavors: dict, names: list[str]) -> dict[str, str]:
    return dict(layout_of(["MLmodel", *names], lambda _: mlmodel(flavors).encode(), "s3://models/m").files)


def test_a_pipeline_of_an_earlier_mlflow_has_its_tokenizer_beside_the_weights():
    names = ["pipeline/config.json", "pipeline/tokenizer.json", "pipeline/model.safetensors"]
    assert layout({"transformers": {"pipeline": "pipeline"}}, names) == {
        name.removeprefix("pipeline/"): name for name in names
    }


def test_a_model_of_an_azureml_registry():
    names = ["data/model/model.safetensors", "data/config/config.json", "data/tokenizer/tokenizer.json", "conda.yaml"]
    assert layout({"hftransformersv2": AZURE}, names) == {
        "tokenizer.json": "data/tokenizer/tokenizer.json",
        "model.safetensors": "data/model/model.safetensors",
        "config.json": "data/config/config.json",
    }


def test_a_plain_folder_stays_as_it_is():
    names = ["config.json", "model.safetensors", "MLmodel", "model/config.json"]
    assert layout_of(names, lambda _: b"", "s3://models/m").files == {name: name for name in names}


@pytest.mark.parametrize(
    ("flavors", "names", "says"),
    [
        ({"sklearn": {}}, [], "has no flavour transformers (there: python_function, sklearn)"),
        ({"transformers": {**FLAVOR, "peft_adaptor": "peft"}}, [], "an adapter without its base"),
        ({"transformers": FLAVOR | {"model_binary": None}}, [], "Write modelPath: microsoft/Phi-3-mini-4k-instruct"),
        ({"transformers": FLAVOR}, ["model/model.safetensors"], "no config.json in model/"),
        ({"transformers": FLAVOR | {"model_binary": "../other"}}, ["model/config.json"], "no config.json in ../other/"),
    ],
)
def test_what_is_no_model_is_refused(flavors, names, says):
    with pytest.raises(StageFailure) as caught:
        layout(flavors, names)
    assert caught.value.reason is Reason.MODEL_INVALID
    assert says in str(caught.value.problems[0])


@pytest.mark.parametrize("content", [b"a: [", b"- 1", b"", b"flavors: 3"])
def test_an_mlmodel_that_cannot_be_read(content):
    with pytest.raises(StageFailure, match="MLmodel"):
        layout_of(["MLmodel"], lambda _: content, "s3://models/m")
