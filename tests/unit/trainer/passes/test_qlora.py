"""QLoRA on a CPU: 4-bit weights that stay trainable, and an adapter that fits the full-precision base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.lora import QLoraConfig
from finetune_api.model import LoadKwargs
from finetune_trainer import quantization
from finetune_trainer.models import load_model
from finetune_trainer.passes import lora, merge


@pytest.fixture(scope="module")
def trained(run_stage: Callable, lora_config: Callable) -> Any:
    config = lora_config({"quantType": "nf4", "doubleQuant": True})
    return run_stage(lora, "QLoRA", config, data={"train": {}})


def four_bit_model(folder: Path, **settings: Any) -> torch.nn.Module:
    config = QLoraConfig.model_validate({"trainDataConfig": "train", **settings})
    four_bit = quantization.four_bit(config, torch.float32)
    cpu = torch.device("cpu")
    return load_model(folder, LoadKwargs(), device=cpu, dtype=torch.float32, quantization=four_bit)


def test_it_learns_over_4_bits_and_merges_into_the_full_precision_base(
    trained: Any, run_stage: Callable, accuracy_of: Callable, base_model: Path
) -> None:
    losses = [line["loss"] for line in trained.progress if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    merged = run_stage(merge, "MergeAdapterWeights", {}, inputs={"adapter": trained.folder})
    assert accuracy_of(model=merged.folder).output.metrics["tone"] >= 0.9
    base, new = load_file(base_model / "model.safetensors"), load_file(merged.folder / "model.safetensors")
    changed = {name for name in base if not torch.equal(base[name], new[name])}
    assert changed == {f"model.layers.{i}.self_attn.{part}.weight" for i in (0, 1) for part in ("o_proj", "qkv_proj")}
    assert {tensor.dtype for tensor in new.values()} == {torch.float32}


@pytest.mark.parametrize(("quant_type", "double"), [("nf4", True), ("fp4", False)])
def test_the_base_is_held_in_the_4_bits_that_the_config_says(base_model: Path, quant_type: str, double: bool) -> None:
    model = four_bit_model(base_model, quantType=quant_type, doubleQuant=double)
    layer = model.model.layers[0].self_attn.qkv_proj
    assert layer.weight.dtype is torch.uint8
    assert layer.weight.numel() == layer.in_features * layer.out_features / 2
    assert layer.weight.quant_state.quant_type == quant_type
    assert layer.weight.quant_state.nested is double


def test_an_evaluation_pass_does_not_repack_weights_for_a_kernel_without_gradients(
    base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bitsandbytes 0.50.2, where the CPU has AVX512-BF16: gradients after the first evaluation were wrong."""
    from bitsandbytes.nn import modules

    repacked: list[torch.Size] = []

    def repack(weight: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        repacked.append(weight.shape)
        return weight, state

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(modules, "_convert_weight_packed_for_cpu", repack)
    model = four_bit_model(base_model)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        model.eval()(ids)
    assert repacked, "the trap is there: without our switch weights are repacked"
    repacked.clear()
    quantization.keep_trainable_on_cpu(model)
    with torch.no_grad():
        model.eval()(ids)
    assert not repacked


def test_the_pass_throws_the_switch(
    run_stage: Callable, lora_config: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.nn import modules

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(modules, "_convert_weight_packed_for_cpu", lambda *_: pytest.fail("weights were repacked"))
    config = lora_config({"evalDataConfig": "test"}, maxSteps=2, evalStrategy="steps", evalSteps=1)
    ran = run_stage(lora, "QLoRA", config, data={"train": {}, "test": {}})
    assert ran.output.metrics["eval_loss"] > 0
