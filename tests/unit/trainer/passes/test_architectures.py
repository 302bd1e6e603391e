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
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_api.stage import Reason
from finetune_trainer.architectures import DEFAULT_TARGETS
from finetune_trainer.errors import StageFailure
from finetune_trainer.passes import build, lora, merge

from ..conftest import EOS, TEXTS
from ..world import World, lines
from .conftest import Row, data_config, teach_layout

# As Qwen splits a text into words.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
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
# Llama and a sliding window, which is longer than the context here.
IN_ALL_RUNS = ("mistral",)
# onnxruntime-genai 0.18 reads a rotary embedding of one kind where transformers 5 has two, and says KeyError.
NOT_BUILT = ("gemma3_text",)
# Attention alone learns slowly where embeddings are scaled up.
STEPS = {"gemma": 500, "gemma2": 500, "gemma3_text": 500}
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
    if architecture == "qwen2":
        _of_bytes(folder)
    torch.manual_seed(1)
    config = AutoConfig.for_model(architecture, **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return folder


def _of_bytes(folder: Path) -> None:
    """Gives the model a tokenizer of Qwen's kind: onnxruntime-genai knows no other for its architecture."""
    kept = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    size, eos = kept.get_vocab_size(), json.loads((folder / "config.json").read_text())["eos_token_id"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    fill = [f"<|fill{number}|>" for number in range(eos - tokenizer.get_vocab_size())]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (*fill, EOS)])
    assert tokenizer.token_to_id(EOS) == eos
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": EOS, "pad_token": EOS, "model_max_length": 256}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


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
    steps = STEPS.get(architecture, 180)
    adapter = run_stage(lora, "LoRA", lora_config(maxSteps=steps), **settings)
    targets = json.loads((adapter.folder / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(DEFAULT_TARGETS[architecture])
    merged = run_stage(merge, "MergeAdapterWeights", {}, base=base, inputs={"adapter": adapter.folder})
    assert "in memory" not in merged.said, "each target is one tensor of the files"

    untuned = accuracy_of(base=base).output.metrics
    tuned = _measured(architecture, merged.folder, run_stage, accuracy_of, settings)
    assert untuned["tone/high"] < 0.5 < tuned["tone/low"], "right by chance before, by what it learned after"


def _measured(
    architecture: str, merged: Path, run_stage: Callable, accuracy_of: Callable, settings: dict[str, Any]
) -> dict[str, float]:
    """The figures of the int4 model, which is its source's equal; of the source where the builder fails."""
    inputs = {"model": merged}
    if architecture in NOT_BUILT:
        with pytest.raises(StageFailure, match="onnxruntime-genai's builder failed") as caught:
            run_stage(build, "ModelBuilder", {"precision": "int4"}, inputs=inputs, **settings)
        assert caught.value.reason is Reason.UNSUPPORTED
        return accuracy_of(model=merged).output.metrics
    built = run_stage(build, "ModelBuilder", {"precision": "int4"}, inputs=inputs, **settings)
    build.check(built.context)
    return accuracy_of(onnx=built.folder).output.metrics
