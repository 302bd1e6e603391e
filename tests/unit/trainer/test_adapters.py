"""Which modules get an adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from finetune_api.lora import LoraConfig
from finetune_api.stage import Reason
from finetune_trainer.adapters import DEFAULT_TARGETS, attach, target_modules
from finetune_trainer.errors import StageFailure

PATH = "spec.passes[name=lora].config"


def model_of(architecture: str, **settings: Any) -> PreTrainedModel:
    """A model of one layer, with random weights."""
    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "pad_token_id": 0,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **shape | settings))


def config(*targets: str) -> LoraConfig:
    return LoraConfig(train_data_config="train", r=4, target_modules=list(targets) or None)


@pytest.mark.parametrize("architecture", DEFAULT_TARGETS)
def test_the_default_is_the_attention_of_each_architecture(architecture: str) -> None:
    model = model_of(architecture)
    targets = target_modules(model, config(), PATH)
    adapted = attach(model, config(), targets)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(targets)
    assert all(".self_attn." in name for name in trained)
    assert {parameter.dtype for parameter in adapted.parameters() if parameter.requires_grad} == {torch.float32}


def test_an_unknown_architecture_says_which_names_there_are() -> None:
    model = model_of("olmo")
    with pytest.raises(StageFailure, match="olmo has no default targets") as caught:
        target_modules(model, config(), PATH)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert caught.value.problems[0].path == f"{PATH}.targetModules"
    assert "q_proj" in caught.value.problems[0].remedy
    assert target_modules(model, config("q_proj", "layers.0.mlp.up_proj"), PATH) == ["q_proj", "layers.0.mlp.up_proj"]


@pytest.mark.parametrize("name", ["proj", "input_layernorm", "embed_tokens", "self_attn"])
def test_only_whole_names_of_linear_modules_match(name: str) -> None:
    with pytest.raises(StageFailure, match="no linear module") as caught:
        target_modules(model_of("llama"), config("q_proj", name), PATH)
    assert caught.value.problems[0].value == name


def test_an_output_layer_gets_one_only_where_it_is_not_the_embedding() -> None:
    assert target_modules(model_of("llama", tie_word_embeddings=False), config("lm_head"), PATH) == ["lm_head"]
    with pytest.raises(StageFailure, match="is its embedding too"):
        target_modules(model_of("llama", tie_word_embeddings=True), config("lm_head"), PATH)
