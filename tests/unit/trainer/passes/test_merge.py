"""The merge: bit for bit peft's, without loading the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.lora_weights import read_lora, scaling
from finetune_trainer.model_folder import tensor_files
from finetune_trainer.passes import merge


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def random_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter with noise in both factors."""
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    options = {"r": 4, "lora_alpha": 7, "target_modules": ["o_proj", "qkv_proj", "down_proj"]} | settings
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return folder


def in_type(base: Path, folder: Path, dtype: torch.dtype, shard_size: str = "5GB") -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    shutil.copy(base / "tokenizer.json", folder)
    return folder


@pytest.fixture
def merged_from(run_stage: Callable) -> Iterator[Callable[[Path, Path], Any]]:
    yield lambda base, adapter: run_stage(merge, "MergeAdapterWeights", {}, base=base, inputs={"adapter": adapter})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"o_proj": 8}, "alpha_pattern": {"layers.1.self_attn.qkv_proj": 3}},
    ],
    ids=["plain", "rank-stabilised", "patterns"],
)
def test_equal_to_peft_bit_for_bit(
    base_model: Path, tmp_path: Path, merged_from: Callable, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    base = in_type(base_model, tmp_path / "base", dtype)
    adapter = random_adapter(base, tmp_path / "adapter", **settings)
    ran = merged_from(base, adapter)
    expected, found = by_peft(base, adapter), tensors(ran.folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert "in memory" not in ran.said
    assert ran.output.metrics == {"merged_modules": 6}


def test_the_trained_adapter_too(adapter: Any, merged: Any, base_model: Path) -> None:
    expected, found = by_peft(base_model, adapter.folder), tensors(merged.folder)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_shards_keep_their_files_and_companions_come_along(
    base_model: Path, tmp_path: Path, merged_from: Callable
) -> None:
    base = in_type(base_model, tmp_path / "base", torch.float32, shard_size="100KB")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "modeling_own.py").write_text("raise SystemExit")
    (base / "pytorch_model.bin").write_bytes(b"pickle")
    adapter = random_adapter(base, tmp_path / "adapter", target_modules=r"model\.layers\.0\.self_attn\.o_proj")
    ran = merged_from(base, adapter)
    shards = {path.name for path in base.glob("*.safetensors")}
    assert len(shards) > 2
    names = {path.name for path in ran.folder.iterdir()}
    assert names == {path.name for path in base.iterdir()} - {"modeling_own.py", "pytorch_model.bin"}
    index = "model.safetensors.index.json"
    assert (ran.folder / index).read_bytes() == (base / index).read_bytes()
    changed = {name for name in shards if (ran.folder / name).read_bytes() != (base / name).read_bytes()}
    assert changed == {tensor_files(base)["model.layers.0.self_attn.o_proj.weight"].name}
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(ran.folder)(torch.arange(9)[None]).logits).all()


def test_tied_embeddings_stay_tied(base_model: Path, tmp_path: Path, merged_from: Callable) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_model, base)
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": True}
    (base / "config.json").write_text(json.dumps(config))
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    adapter = random_adapter(base, tmp_path / "adapter")
    ran = merged_from(base, adapter)
    expected, found = by_peft(base, adapter), tensors(ran.folder)
    assert "lm_head.weight" not in found
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=["dora", "saved"])
def test_what_is_more_than_an_update_of_one_tensor_goes_through_peft(
    base_model: Path, tmp_path: Path, merged_from: Callable, settings: dict[str, Any]
) -> None:
    adapter = random_adapter(base_model, tmp_path / "adapter", **settings)
    ran = merged_from(base_model, adapter)
    assert "merging in memory with peft" in ran.said
    expected, found = by_peft(base_model, adapter), tensors(ran.folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_target_that_the_files_call_or_shape_otherwise_does_not_fit(base_model: Path, tmp_path: Path) -> None:
    updates = read_lora(random_adapter(base_model, tmp_path / "adapter")).updates
    assert len(updates) == 6
    files = tensor_files(base_model)
    assert merge.first_misfit(updates, files) == ""
    module = "model.layers.0.mlp.down_proj"
    transposed = replace(updates[module], a=updates[module].b.T, b=updates[module].a.T)
    assert merge.first_misfit(updates | {module: transposed}, files) == module
    del files[f"{module}.weight"]
    assert merge.first_misfit(updates, files) == module


def test_weights_that_overflow_are_refused(base_model: Path, tmp_path: Path, merged_from: Callable) -> None:
    base = in_type(base_model, tmp_path / "base", torch.float16)
    adapter = random_adapter(base, tmp_path / "adapter", lora_alpha=10**9)
    with pytest.raises(StageFailure, match="NaN or infinite in float16") as caught:
        merged_from(base, adapter)
    assert caught.value.reason is Reason.MODEL_INVALID


def test_pickled_weights_are_not_read(base_model: Path, adapter: Any, tmp_path: Path, merged_from: Callable) -> None:
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(base_model / "config.json", base)
    (base / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(StageFailure, match="safetensors") as caught:
        merged_from(base, adapter.folder)
    assert caught.value.problems[0].path == "spec.inputModel.modelPath"


def test_scaling_follows_peft() -> None:
    config = {"r": 16, "lora_alpha": 8, "rank_pattern": {"^model.layers.0.a": 4}, "alpha_pattern": {"b": 2}}
    assert scaling(config, "model.layers.0.a") == 2
    assert scaling(config, "model.layers.0.b") == 2 / 16
    assert scaling(config | {"use_rslora": True}, "model.layers.1.a") == 2
