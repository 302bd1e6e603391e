"""Every architecture that has default targets, tiny, through the whole chain: prepare, LoRA, merge, int4, evaluate.

Phi-3 goes through it in the other tests of this folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.architectures import DEFAULT_TARGETS
from finetune_trainer.passes import build, lora, merge

from ..world import World, lines
from .conftest import Row, data_config, teach_layout

CLASSES = {
    "phi3": "Phi3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
IN_ALL_RUNS = ("llama",)
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in CLASSES if name not in ("phi3", *IN_ALL_RUNS)]


def test_each_has_a_class() -> None:
    assert CLASSES.keys() == DEFAULT_TARGETS.keys()


def tiny(architecture: str, like: Path, folder: Path) -> Path:
    """A folder as `like`, of another architecture, with random weights."""
    shutil.copytree(like, folder)
    shape = json.loads((like / "config.json").read_text())
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    kept += ("num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    settings = {name: shape[name] for name in kept} | {"head_dim": 16}
    if architecture.startswith("gemma"):
        settings |= {"query_pre_attn_scalar": 16, "sliding_window": 256}
    torch.manual_seed(1)
    config = AutoConfig.for_model(architecture, **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", [*IN_ALL_RUNS, *OTHERS])
def test_it_goes_through_the_whole_chain(
    architecture: str,
    tiny_model: Path,
    tmp_path: Path,
    rows: dict[str, list[Row]],
    world: World,
    run_stage: Callable,
    lora_config: Callable,
    accuracy_of: Callable,
) -> None:
    base = tiny(architecture, tiny_model, tmp_path / "base")
    teach_layout(base, rows["train"])

    world.s3.put_folder(f"{world.prefix}/{architecture}", base)
    world.s3.put(f"{world.prefix}/rows.jsonl", lines(rows["train"]))
    data = data_config("train") | {"loadDatasetConfig": {"dataFiles": [f"{world.prefix}/rows.jsonl"]}}
    world.spec |= {"inputModel": {"modelPath": f"{world.prefix}/{architecture}"}, "dataConfigs": [data]}
    assert world.prepare().prepared.pins.model.architecture == CLASSES[architecture]

    settings: dict[str, Any] = {"base": base, "data": {"train": {}}}
    adapter = run_stage(lora, "LoRA", lora_config(), **settings)
    targets = json.loads((adapter.folder / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(DEFAULT_TARGETS[architecture])
    merged = run_stage(merge, "MergeAdapterWeights", {}, base=base, inputs={"adapter": adapter.folder})
    assert "in memory" not in merged.said, "each target is one tensor of the files"

    built = run_stage(build, "ModelBuilder", {"precision": "int4"}, inputs={"model": merged.folder}, **settings)
    figures = build.check(built.context)
    untuned = accuracy_of(base=base).output.metrics
    tuned = accuracy_of(onnx=built.folder).output.metrics
    print(architecture, tuned["tone"], untuned["tone"], figures)
    assert untuned["tone/high"] < 0.5 < tuned["tone/low"], "right by chance before, by what it learned after"
