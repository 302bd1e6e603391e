"""inputModel.adapterPath: found, held to its pin, and refused where a pass could not go on from it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from finetune_api.keys import stage_keys
from finetune_api.rules import check
from finetune_api.stage import ExitCode, Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.fetch import fetch_base_adapter
from finetune_trainer.stage import _inputs as inputs_of

from .world import World

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "s3://elsewhere/base",
    "r": 8,
    "lora_alpha": 16.0,
    "target_modules": ["o_proj", "qkv_proj"],
    "bias": "none",
}
FIELD = "spec.inputModel.adapterPath"


def put(world: World, config: dict[str, Any] | None = None, *, weights: bytes = b"", name: str = "adapter") -> str:
    """An adapter in the world's bucket; its URI."""
    uri = f"{world.prefix}/{name}"
    world.s3.put(f"{uri}/adapter_config.json", json.dumps(CONFIG | (config or {})).encode())
    content = weights or save({"base_model.model.a.lora_A.weight": np.ones((8, 4), np.float32)})
    world.s3.put(f"{uri}/adapter_model.safetensors", content)
    world.s3.put(f"{uri}/README.md", b"not read")
    return uri


@pytest.fixture
def adapted(world: World) -> World:
    """A job whose LoRA pass goes on from an adapter."""
    world.spec["inputModel"]["adapterPath"] = put(world)
    world.spec["passes"][0]["config"] |= {"r": 8, "alpha": 16}
    return world


def failure(world: World) -> StageFailure:
    with pytest.raises(StageFailure) as caught:
        world.prepare()
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert all(found.path.startswith("spec.") and found.remedy for found in caught.value.problems)
    return caught.value


def test_it_is_pinned_and_in_the_key_of_what_reads_it_alone(adapted: World) -> None:
    pins = adapted.prepare().prepared.pins
    assert "adapter" in adapted.log
    assert "warning: the adapter was trained on s3://elsewhere/base" in adapted.log
    assert [file["name"] for file in adapted.report()["adapter"]["files"]] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    spec = check(adapted.spec)[0]
    other = pins.model_copy(update={"model": pins.model.model_copy(update={"adapter": "f" * 64})})
    before, after = stage_keys("team", spec, pins), stage_keys("team", spec, other)
    assert before["lora"] != after["lora"]
    del adapted.spec["inputModel"]["adapterPath"]
    assert stage_keys("team", check(adapted.spec)[0], pins)["lora"] != before["lora"]


def test_the_stage_gets_it_and_a_changed_one_is_refused(adapted: World) -> None:
    pins = adapted.prepare().prepared.pins
    model = check(adapted.spec)[0].input_model
    place = adapted.place(adapted.document("LoRA", "lora", inputModel=model, pins=pins))
    folder = fetch_base_adapter(place)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    alone = adapted.document("MergeAdapterWeights", "merge", inputModel=model.without_adapter(), pins=pins)
    assert fetch_base_adapter(adapted.place(alone)) is None

    put(adapted, weights=save({"base_model.model.a.lora_A.weight": np.zeros((8, 4), np.float32)}))
    again = adapted.place(adapted.document("LoRA", "lora", inputModel=model, pins=pins))
    with pytest.raises(StageFailure, match=r"adapter_model\.safetensors") as caught:
        fetch_base_adapter(again)
    assert caught.value.reason is Reason.INPUT_CHANGED
    with pytest.raises(StageFailure) as caught:
        adapted.prepare(pins)
    assert (caught.value.reason, caught.value.problems[0].path) == (Reason.INPUT_CHANGED, FIELD)


@pytest.mark.parametrize(
    ("config", "passes", "path", "says"),
    [
        ({"r": 4}, {}, "spec.passes[0].config.r", "the adapter's is 4"),
        ({"lora_alpha": 32}, {}, "spec.passes[0].config.alpha", "the adapter's is 32"),
        ({"use_rslora": True}, {}, "spec.passes[0].config.useRslora", "the adapter's is true"),
        ({"rank_pattern": {"o_proj": 4}}, {}, "spec.passes[0].config.rankPattern", 'the adapter\'s is {"o_proj": 4}'),
        ({"use_dora": True}, {}, "spec.passes[0].type", "the adapter is one of DoRA"),
        (
            {},
            {"targetModules": ["o_proj"]},
            "spec.passes[0].config.targetModules",
            "the adapter's are o_proj, qkv_proj",
        ),
        ({}, {"modulesToSave": ["lm_head"]}, "spec.passes[0].config.modulesToSave", "the adapter's are none"),
        ({"target_modules": ".*proj"}, {}, FIELD, "its target_modules are a pattern, not names"),
        ({"layers_to_transform": [1]}, {}, FIELD, "it has layers_to_transform, which no pass trains"),
        ({"bias": "all"}, {}, FIELD, "it has biases (all), which no pass trains"),
        ({"peft_type": "LOHA"}, {}, FIELD, "it is of peft's type LOHA"),
    ],
)
def test_a_pass_that_could_not_go_on_from_it(
    adapted: World, config: dict[str, Any], passes: dict[str, Any], path: str, says: str
) -> None:
    put(adapted, config)
    adapted.spec["passes"][0]["config"] |= passes
    found = failure(adapted)
    assert found.reason is Reason.UNSUPPORTED
    assert [(item.path, item.message) for item in found.problems] == [(path, says)]


def test_all_that_differs_is_named_at_once(adapted: World) -> None:
    put(adapted, {"r": 4, "lora_alpha": 2, "use_dora": True})
    assert len(failure(adapted).problems) == 3


def test_a_builder_cannot_keep_doras_adapter_unmerged(adapted: World) -> None:
    put(adapted, {"use_dora": True})
    config = {"precision": "int4", "adapter": "unmerged"}
    adapted.spec["passes"] = [{"name": "onnx", "type": "ModelBuilder", "config": config}]
    assert [item.path for item in failure(adapted).problems] == ["spec.passes[0].config.adapter"]


def test_a_stages_adapter_is_the_input_models_where_none_comes_from_upstream(adapted: World) -> None:
    pins = adapted.prepare().prepared.pins
    model = check(adapted.spec)[0].input_model
    place = adapted.place(adapted.document("LoRA", "lora", inputModel=model, pins=pins))
    (folders, manifests), base = inputs_of(place)
    assert list(folders) == ["adapter"]
    assert manifests == {}
    assert (base / "config.json").is_file()


def test_a_merge_alone_takes_what_training_would_not(adapted: World) -> None:
    put(adapted, {"r": 3, "target_modules": ".*proj", "layers_to_transform": [0]})
    adapted.spec["passes"] = [{"name": "merge", "type": "MergeAdapterWeights"}]
    assert adapted.prepare().prepared.pins.model.adapter


@pytest.mark.parametrize(
    ("files", "reason", "says"),
    [
        ({}, Reason.MODEL_NOT_FOUND, "there is nothing"),
        ({"adapter_model.safetensors": b"x"}, Reason.MODEL_INVALID, "no adapter_config.json in it"),
        ({"adapter_config.json": b"{}"}, Reason.MODEL_INVALID, "no adapter_model.safetensors in it"),
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, Reason.MODEL_INVALID, "its weights are a pickle"),
    ],
)
def test_what_is_no_adapter(adapted: World, files: dict[str, bytes], reason: Reason, says: str) -> None:
    uri = f"{adapted.prefix}/odd"
    for name, body in files.items():
        adapted.s3.put(f"{uri}/{name}", body)
    adapted.spec["inputModel"]["adapterPath"] = uri
    found = failure(adapted)
    assert found.reason is reason
    assert [item.path for item in found.problems] == [FIELD]
    assert found.problems[0].message.startswith(says)


def test_model_and_adapter_are_both_named_where_both_are_wrong(adapted: World) -> None:
    adapted.spec["inputModel"] = {"modelPath": f"{adapted.prefix}/none", "adapterPath": f"{adapted.prefix}/nothing"}
    assert [item.path for item in failure(adapted).problems] == ["spec.inputModel.modelPath", FIELD]


def test_an_adapter_on_a_volume(adapted: World, tmp_path: Any) -> None:
    uri = adapted.spec["inputModel"]["adapterPath"]
    in_store = adapted.prepare().prepared.pins.model.adapter
    folder = tmp_path / "sources" / "pvc" / "claim" / "adapter"
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes(adapted.s3.get(f"{uri}/{name}"))
    adapted.sources = tmp_path / "sources"
    adapted.spec["inputModel"]["adapterPath"] = "pvc://claim/adapter"
    on_volume = adapted.prepare().prepared.pins.model.adapter
    assert on_volume
    assert on_volume != in_store, "of weights in a store the server's ETag is known, on a volume their content"
