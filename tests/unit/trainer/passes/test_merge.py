"""The merge: bit for bit peft's, without loading the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.lora_weights import read_lora, scaling
from finetune_trainer.model_folder import tensor_files
from finetune_trainer.passes import merge
from finetune_trainer.quantization import keep_trainable_on_cpu


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
        if "lora_magnitude_vector" in name:
            parameter.data *= 1 + torch.rand_like(parameter)
        elif "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return folder


def in_type(base: Path, folder: Path, dtype: torch.dtype, shard_size: str = "5GB") -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    shutil.copy(base / "tokenizer.json", folder)
    return folder


def tied(base: Path, folder: Path) -> Path:
    """`base` with one matrix for embedding and output layer."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
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
        {"use_dora": True, "use_rslora": True, "rank_pattern": {"o_proj": 8}, "modules_to_save": ["lm_head", "norm"]},
    ],
    ids=["plain", "rank-stabilised", "patterns", "weight-decomposed"],
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
    assert names == {path.name for path in base.iterdir()} - {"modeling_own.py", "pytorch_model.bin"} | {"README.md"}
    index = "model.safetensors.index.json"
    assert (ran.folder / index).read_bytes() == (base / index).read_bytes()
    changed = {name for name in shards if (ran.folder / name).read_bytes() != (base / name).read_bytes()}
    assert changed == {tensor_files(base)["model.layers.0.self_attn.o_proj.weight"].name}
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(ran.folder)(torch.arange(9)[None]).logits).all()


def test_tied_embeddings_stay_tied(base_model: Path, tmp_path: Path, merged_from: Callable) -> None:
    base = tied(base_model, tmp_path / "base")
    adapter = random_adapter(base, tmp_path / "adapter")
    ran = merged_from(base, adapter)
    expected, found = by_peft(base, adapter), tensors(ran.folder)
    assert "lm_head.weight" not in found
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_what_is_more_than_an_update_of_one_tensor_goes_through_peft(
    base_model: Path, tmp_path: Path, merged_from: Callable
) -> None:
    adapter = random_adapter(base_model, tmp_path / "adapter", trainable_token_indices=[3, 4])
    ran = merged_from(base_model, adapter)
    assert "merging in memory with peft, as trainable_token_indices" in ran.said
    expected, found = by_peft(base_model, adapter), tensors(ran.folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("whole", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"]], ids="+".join)
def test_modules_trained_whole_replace_the_base_s_and_untie_what_was_tied(
    base_model: Path, tmp_path: Path, merged_from: Callable, whole: list[str]
) -> None:
    base = tied(base_model, tmp_path / "base")
    adapter = random_adapter(base, tmp_path / "adapter", modules_to_save=whole)
    ran = merged_from(base, adapter)
    assert "in memory" not in ran.said
    assert "the output layer is no longer the embedding" in ran.said
    assert not json.loads((ran.folder / "config.json").read_text())["tie_word_embeddings"]
    again = AutoModelForCausalLM.from_pretrained(ran.folder)
    expected = by_peft(base, adapter)
    found = again.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    index = json.loads((ran.folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors(ran.folder).values())


def test_in_memory_too_what_was_tied_comes_apart(
    base_model: Path, tmp_path: Path, merged_from: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tied(base_model, tmp_path / "base")
    adapter = random_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    by_file = tensors(merged_from(base, adapter).folder)
    monkeypatch.setattr(merge, "first_misfit", lambda *args, **kwargs: "a renamed tensor")
    ran = merged_from(base, adapter)
    assert "merging in memory with peft, as a renamed tensor" in ran.said
    found = tensors(ran.folder)
    assert found.keys() == by_file.keys()
    assert all(torch.equal(found[name], by_file[name]) for name in found)
    assert not AutoModelForCausalLM.from_pretrained(ran.folder).config.tie_word_embeddings


def test_a_target_that_the_files_call_or_shape_otherwise_does_not_fit(base_model: Path, tmp_path: Path) -> None:
    weights = read_lora(random_adapter(base_model, tmp_path / "adapter"))
    updates = weights.updates
    assert len(updates) == 6
    files = tensor_files(base_model)
    assert merge.first_misfit(weights, files) == ""
    module = "model.layers.0.mlp.down_proj"
    transposed = replace(updates[module], a=updates[module].b.T, b=updates[module].a.T)
    assert merge.first_misfit(replace(weights, updates=updates | {module: transposed}), files) == module
    del files[f"{module}.weight"]
    assert merge.first_misfit(weights, files) == module


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


def test_onto_the_dequantized_base_it_is_the_model_that_was_trained(
    run_stage: Callable, lora_config: Callable, base_model: Path
) -> None:
    """The figures for QLoRA: how far the merged model's logits are from those of the 4-bit base with its adapter."""
    from finetune_trainer.passes import lora

    config = lora_config({"quantType": "nf4", "doubleQuant": True}, maxSteps=20)
    trained = run_stage(lora, "QLoRA", config, data={"train": {}})
    four_bit = AutoModelForCausalLM.from_pretrained(
        base_model,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        ),
    )
    keep_trainable_on_cpu(four_bit)  # else bitsandbytes repacks it on CPUs with AVX512-BF16, and other numbers come out
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        expected = peft.PeftModel.from_pretrained(four_bit, trained.folder)(ids).logits.float()
        distance: dict[str, float] = {}
        for values in ("original", "dequantized"):
            inputs = {"adapter": trained.folder}
            ran = run_stage(merge, "MergeAdapterWeights", {"baseWeights": values}, inputs=inputs)
            found = AutoModelForCausalLM.from_pretrained(ran.folder, dtype=torch.float32)(ids).logits
            distance[values] = float((found - expected).abs().max())
    print(f"largest difference of logits from 4-bit base + adapter, by base weights: {distance}")
    assert distance["dequantized"] < 1e-3 < distance["original"]


def test_only_a_4_bit_base_has_dequantized_weights(run_stage: Callable, adapter: Any) -> None:
    inputs = {"adapter": adapter.folder}
    with pytest.raises(StageFailure, match="not trained over a 4-bit base") as caught:
        run_stage(merge, "MergeAdapterWeights", {"baseWeights": "dequantized"}, inputs=inputs)
    assert caught.value.problems[0].path.endswith("config.baseWeights")


MEASURED = """
import io, json, resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from finetune_api.stage import StageDocument
from finetune_trainer.context import StageContext
from finetune_trainer.report import Reporter
from finetune_trainer.passes import merge

torch.set_num_threads(1)
root = Path(sys.argv[1])
document = json.loads((root / "document.json").read_text())
context = StageContext(StageDocument.model_validate(document), {"adapter": root / "adapter"}, root / "base",
                       root / "output", root / "scratch", Reporter(io.StringIO()), lambda name: [])
a = torch.zeros(4, 4); (a @ a)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge.run(context)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"grown": (after - before) * 1024, "heavy": sorted({"peft", "transformers"} & sys.modules.keys())}))
"""


def test_memory_stays_below_one_shard(make_stage: Callable, tmp_path: Path) -> None:
    """Two shards of 96 MiB, twelve matrices each; one matrix, in float32, and its update are in memory."""
    matrix = torch.zeros(2048, 2048, dtype=torch.bfloat16)
    for name in ("base", "adapter", "output", "scratch"):
        (tmp_path / name).mkdir()
    weights, updates = {}, {}
    for shard in (1, 2):
        tensors_ = {f"model.layers.{shard}.m{number}.weight": matrix.clone() for number in range(12)}
        file = f"model-0000{shard}-of-00002.safetensors"
        save_file(tensors_, tmp_path / "base" / file)
        weights |= dict.fromkeys(tensors_, file)
    for name in weights:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        updates[f"{module}.lora_A.weight"] = torch.ones(8, 2048)
        updates[f"{module}.lora_B.weight"] = torch.ones(2048, 8)
    save_file(updates, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 8}')
    (tmp_path / "base" / "config.json").write_text('{"tie_word_embeddings": false}')
    (tmp_path / "base" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    document = make_stage("MergeAdapterWeights", {})[0].document.wire()
    (tmp_path / "document.json").write_text(json.dumps(document))
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(ran.stdout)
    shard_bytes = (tmp_path / "base" / "model-00001-of-00002.safetensors").stat().st_size
    assert found["heavy"] == []
    assert found["grown"] < shard_bytes
    assert torch.equal(tensors(tmp_path / "output")["model.layers.2.m3.weight"], torch.full_like(matrix, 8))
