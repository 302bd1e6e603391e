"""Which modules get an adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from finetune_api.lora import DoraConfig, LoraConfig, QLoraConfig
from finetune_api.stage import Reason
from finetune_trainer.adapters import Parts, attach, target_modules, trained_parts
from finetune_trainer.architectures import DEFAULT_TARGETS
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
    adapted = attach(model, config(), Parts(targets, []))
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


def whole_config(**fields: Any) -> LoraConfig:
    return LoraConfig(train_data_config="train", **fields)


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_is_every_linear_module_but_the_output_layer(tied: bool) -> None:
    model = model_of("qwen2", tie_word_embeddings=tied)
    targets = target_modules(model, config("all-linear"), PATH)
    assert targets == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({"r": 16, "alpha": 8}, {"o_proj": 0.5, "qkv_proj": 0.5}),
        ({"r": 16, "alpha": 8, "use_rslora": True}, {"o_proj": 2.0, "qkv_proj": 2.0}),
        ({"r": 16, "alpha": 8, "rank_pattern": {"o_proj": 4}}, {"o_proj": 2.0, "qkv_proj": 0.5}),
        ({"r": 16, "alpha": 8, "alpha_pattern": {"layers.0.self_attn.qkv_.*": 1}}, {"o_proj": 0.5, "qkv_proj": 0.0625}),
    ],
    ids=["plain", "rank-stabilised", "ranks", "alphas"],
)
def test_ranks_and_scaling_are_as_the_spec_says(fields: dict[str, Any], scaling: dict[str, float]) -> None:
    wanted, model = whole_config(**fields), model_of("phi3")
    adapted = attach(model, wanted, trained_parts(model, wanted, PATH))
    found = {
        name.rpartition(".")[2]: module.scaling["default"]
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert found == scaling


@pytest.mark.parametrize("kind", [LoraConfig, QLoraConfig, DoraConfig])
def test_only_dora_trains_magnitudes(kind: type[LoraConfig]) -> None:
    wanted, model = kind(train_data_config="train", r=2), model_of("phi3")
    adapted = attach(model, wanted, trained_parts(model, wanted, PATH))
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert sum("lora_magnitude_vector" in name for name in trained) == (2 if kind is DoraConfig else 0)


def test_a_module_that_is_trained_whole_is_a_copy_in_float32() -> None:
    model = model_of("llama").to(torch.bfloat16).requires_grad_(False)
    wanted = whole_config(r=2, modules_to_save=["lm_head", "norm"])
    adapted = attach(model, wanted, trained_parts(model, wanted, PATH))
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert sum("modules_to_save" in name for name in trained) == 2
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert {weight.dtype for weight in adapted.parameters() if not weight.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"modules_to_save": ["lm_hed"]}, "modulesToSave", "no module of llama has this name; Nearest: lm_head"),
        ({"rank_pattern": {"gate_proj": 4}}, "rankPattern", "matches none of the modules that get an adapter"),
        ({"alpha_pattern": {"layers.7.*": 4}}, "alphaPattern", "matches none of the modules that get an adapter"),
    ],
)
def test_names_that_mean_nothing_are_refused(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(StageFailure) as caught:
        trained_parts(model_of("llama"), whole_config(**fields), PATH)
    assert caught.value.problems[0].path == f"{PATH}.{field}"
    found = caught.value.problems[0]
    assert message in f"{found.message}; {found.remedy}"
