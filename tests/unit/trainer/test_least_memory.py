"""The least memory of a training: true of real models, and refused with figures only where nothing could help."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_api.lora import LoraConfig, QLoraConfig
from finetune_api.model import LoadKwargs
from finetune_api.stage import Reason
from finetune_api.system import System
from finetune_trainer.architectures import DEFAULT_TARGETS
from finetune_trainer.errors import StageFailure
from finetune_trainer.least_memory import MEMORY_LABEL, PRODUCT_LABEL, decoder, memory_of, needed, require_room

from .world import World

PATH = "spec.passes[0].config"
PHI3_MINI = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "tie_word_embeddings": False,
}
LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def gpu(labels: dict[str, str], count: int = 1) -> System:
    resources = {"limits": {"nvidia.com/gpu": count}}
    return System.model_validate({"name": "gpu", "resources": resources, "nodeSelector": labels})


def config(kind: type[LoraConfig] = LoraConfig, **fields: Any) -> LoraConfig:
    return kind.model_validate({"trainDataConfig": "train", "r": 64, **fields})


@pytest.mark.parametrize("architecture", DEFAULT_TARGETS)
def test_a_decoder_has_the_weights_that_its_config_tells(architecture: str) -> None:
    shape = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32 if architecture.startswith(("gemma", "qwen3")) else 16,
        "pad_token_id": 0,
    }
    settings = AutoConfig.for_model(architecture, **shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    found = decoder(json.loads(json.dumps(settings.to_dict(), default=str)))
    assert found
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    assert found.in_layers == sum(module.weight.numel() for module in linear)
    around = {id(item): item.numel() for item in (head.weight, model.get_input_embeddings().weight)}
    assert found.around == sum(around.values())


def test_it_stays_below_what_was_measured() -> None:
    """Plain LoRA on Phi-3-mini's shape peaked at 16.5 GiB on an H200, QLoRA at 11.4 (docs/performance.md)."""
    model = decoder(PHI3_MINI)
    assert model
    assert model.in_layers + model.around == 3_821_079_552 - 3072 * (2 * 32 + 1)
    lora = needed(model, "phi3", config(), LoadKwargs(), 2048, 1)
    assert 7.1 * 2**30 < lora.weights < lora.total < 16.5 * 2**30
    adapter = 32 * 64 * ((3072 + 9216) + (3072 + 3072))
    assert (lora.adapter, lora.optimizer) == (8 * adapter, 8 * adapter)
    qlora = needed(model, "phi3", config(QLoraConfig, doubleQuant=True), LoadKwargs(), 2048, 1)
    assert 1.9 * 2**30 < qlora.weights < qlora.total < 11.4 * 2**30


@pytest.mark.parametrize(
    ("labels", "count", "fields", "kind", "fits"),
    [
        ({MEMORY_LABEL: "81559"}, 1, {}, LoraConfig, False),
        ({PRODUCT_LABEL: "NVIDIA-H100-80GB-HBM3"}, 1, {}, LoraConfig, False),
        ({MEMORY_LABEL: "81559"}, 1, {}, QLoraConfig, True),
        ({MEMORY_LABEL: "40960"}, 1, {"targetModules": ["all-linear"], "r": 256}, QLoraConfig, False),
        ({MEMORY_LABEL: "81559"}, 2, {}, LoraConfig, False),
        ({MEMORY_LABEL: "81559"}, 2, {"sharding": "fsdp"}, LoraConfig, True),
        ({MEMORY_LABEL: "143771"}, 1, {}, LoraConfig, True),
        ({MEMORY_LABEL: "143771"}, 1, {"torchDtype": "float32"}, LoraConfig, False),
        ({PRODUCT_LABEL: "NVIDIA-H200"}, 1, {}, LoraConfig, True),
        ({}, 1, {}, LoraConfig, True),
    ],
)
def test_seventy_billion_weights(
    labels: dict[str, str], count: int, fields: dict[str, Any], kind: type[LoraConfig], fits: bool
) -> None:
    arguments = (LLAMA_70B, LoadKwargs(), config(kind, **fields), gpu(labels, count), 4096, PATH)
    if fits:
        assert "weights" in require_room(*arguments)
        return
    with pytest.raises(StageFailure, match=r"at least .* weights .* adapter .* optimizer .* logits = ") as caught:
        require_room(*arguments)
    [found] = caught.value.problems
    assert (caught.value.reason, found.path) == (Reason.OUT_OF_MEMORY, PATH)
    assert ("QLoRA" in found.remedy) is (kind is LoraConfig)
    assert "a larger GPU" in found.remedy


def test_what_nobody_knows_refuses_nothing() -> None:
    small = gpu({MEMORY_LABEL: "1"})
    assert require_room({**LLAMA_70B, "model_type": "olmo"}, LoadKwargs(), config(), small, 8, PATH) == ""
    assert require_room({"model_type": "llama"}, LoadKwargs(), config(), small, 8, PATH) == ""
    assert memory_of(System(name="cpu", node_selector={MEMORY_LABEL: "81559"}), LoadKwargs()) is None
    assert memory_of(gpu({MEMORY_LABEL: "many", PRODUCT_LABEL: "NVIDIA-L4"}), LoadKwargs()) is None


def test_what_a_process_may_take_bounds_it_too() -> None:
    bound = LoadKwargs.model_validate({"maxMemory": {"gpu": "20Gi"}})
    assert memory_of(gpu({MEMORY_LABEL: "81559"}), bound) == memory_of(gpu({}), bound) == 20 << 30
    assert memory_of(gpu({MEMORY_LABEL: "1024"}), bound) == 1 << 30


def test_prepare_refuses_it_with_the_figures(world: World) -> None:
    system = gpu({MEMORY_LABEL: "0"}).wire()
    world.spec |= {"systems": [system], "engine": {"host": "gpu"}}
    with pytest.raises(StageFailure, match=r"which has 0\.0 GiB") as caught:
        world.prepare()
    assert caught.value.problems[0].path == PATH
    system["nodeSelector"] = {MEMORY_LABEL: "81559"}
    assert world.prepare().ok
    assert "needs on each GPU at least (GiB): 0.0 weights" in world.log
