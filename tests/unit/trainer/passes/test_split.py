"""Phi-3's projections in parts compute what they compute whole."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3Attention, Phi3MLP

from finetune_trainer.training import split

CONFIG = Phi3Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
    initializer_range=0.3,
)


def adapted(targets: list[str], **settings: Any) -> peft.PeftModel:
    torch.manual_seed(0)
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=3, target_modules=targets, **settings)
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(CONFIG), lora).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model.double()


@pytest.mark.parametrize("targets", [["o_proj", "qkv_proj"], ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loss_and_gradients_are_those_of_the_whole_projections(targets: list[str], dropout: float) -> None:
    whole = adapted(targets, lora_dropout=dropout, use_rslora=True)
    parted = copy.deepcopy(whole)
    split.apply(parted)
    kinds = {type(module) for module in parted.modules()}
    assert {split.SplitMLP, split.SplitAttention} <= kinds and not {Phi3MLP, Phi3Attention} & kinds
    assert [name for name, _ in whole.named_parameters()] == [name for name, _ in parted.named_parameters()]
    ids = torch.randint(1, 64, (2, 9))
    losses = []
    for model in (whole, parted):
        torch.manual_seed(1)  # the same dropout
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
    for (name, one), (_, other) in zip(whole.named_parameters(), parted.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None and other.grad is not None:
            assert torch.allclose(one.grad, other.grad, rtol=1e-9, atol=1e-12), name


def test_generation_with_a_cache_is_as_before() -> None:
    whole = adapted(["qkv_proj"]).eval()
    parted = copy.deepcopy(whole)
    split.apply(parted)
    ids = torch.randint(1, 64, (1, 5))
    found = [model.generate(input_ids=ids, max_new_tokens=6, do_sample=False).tolist() for model in (whole, parted)]
    assert found[0] == found[1]


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_adapters_of_other_kinds_stay_whole(settings: dict[str, Any]) -> None:
    model = adapted(["qkv_proj"], **settings)
    split.apply(model)
    assert Phi3Attention in {type(module) for module in model.modules()}


def test_merged_quantized_and_biased_projections_stay_whole() -> None:
    merged = adapted(["qkv_proj"])
    merged.merge_adapter()
    split.apply(merged)
    assert Phi3Attention in {type(module) for module in merged.modules()}

    class Packed(nn.Linear):
        """Stands for bitsandbytes' Linear4bit: a subclass whose weight is no matrix."""

    assert not split.splittable(Packed(2, 2, bias=False))
    assert not split.splittable(nn.Linear(2, 2))
    assert split.splittable(nn.Linear(2, 2, bias=False))
