"""Two processes train the adapter that one would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune_trainer.passes import lora
from finetune_trainer.training.world import Alone, World

from .ranks import together

STEPS = {"maxSteps": 6, "loggingSteps": 1, "warmupSteps": 0, "lrSchedulerType": "constant", "learningRate": 5e-3}


def on(world: World, make_stage: Callable, kind: str, config: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The pass on one rank: its figures, the folder of its adapter, and what it said."""
    context, stream = make_stage(kind, config, data={"train": {"completionOnlyLoss": False}}, **settings)
    output = lora.run(replace(context, world=world))
    return {"metrics": output.metrics, "folder": context.output, "said": stream.getvalue()}


def trained(
    make_stage: Callable, kind: str, config: Callable[..., dict[str, Any]], rows: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """One process, and two ranks of which each accumulates half as much: what `on` says of each."""
    half, whole = (config(perDeviceTrainBatchSize=3, gradientAccumulationSteps=n, **STEPS) for n in (2, 4))
    alone = on(Alone(), make_stage, kind, whole, own_rows=rows)
    first, second = together(lambda world: on(world, make_stage, kind, half, own_rows=rows), folder)
    return alone, first, second


@pytest.fixture(scope="module")
def few(rows: dict[str, Any]) -> dict[str, Any]:
    """Rows of which an epoch's last step has one batch of three samples and one of two."""
    return {"train": rows["train"][:24]}


def course(said: str) -> list[float]:
    """The loss of every step."""
    return [
        line["loss"]
        for line in map(json.loads, filter(lambda text: text[0] == "{", said.splitlines()))
        if "loss" in line
    ]


@pytest.mark.parametrize(
    ("kind", "passes"),
    [("LoRA", {}), ("QLoRA", {"quantType": "nf4", "doubleQuant": True}), ("DoRA", {"useRslora": True, "alpha": 4})],
    ids=["LoRA", "QLoRA", "DoRA"],
)
def test_two_ranks_learn_what_one_process_learns(
    make_stage: Callable,
    lora_config: Callable,
    tmp_path: Path,
    base_model: Path,
    few: dict[str, Any],
    kind: str,
    passes: dict[str, Any],
) -> None:
    settings = {"evalDatasetSize": 7, "loraDropout": 0} | passes
    alone, first, second = trained(make_stage, kind, partial(lora_config, settings), few, tmp_path)
    assert course(first["said"]) == pytest.approx(course(alone["said"]), rel=1e-3)
    assert first["metrics"]["train_loss"] == pytest.approx(alone["metrics"]["train_loss"], rel=0.01)
    assert first["metrics"]["eval_loss"] == pytest.approx(alone["metrics"]["eval_loss"], rel=0.01)
    assert first["metrics"]["tokens"] == alone["metrics"]["tokens"]
    weights, other = (load_file(each["folder"] / "adapter_model.safetensors") for each in (first, second))
    assert all(torch.equal(weights[name], other[name]) for name in weights), "ranks take the same steps"
    base = AutoModelForCausalLM.from_pretrained(base_model)
    loaded = peft.PeftModel.from_pretrained(base, first["folder"])
    assert loaded.peft_config["default"].use_dora is (kind == "DoRA")


@pytest.mark.parametrize("kind", ["LoRA", "QLoRA"])
def test_two_ranks_with_half_the_base_each_learn_what_one_process_learns(
    make_stage: Callable, lora_config: Callable, tmp_path: Path, base_model: Path, few: dict[str, Any], kind: str
) -> None:
    settings = {"evalDatasetSize": 7, "loraDropout": 0, "sharding": "fsdp", "targetModules": ["all-linear"]}
    alone, first, second = trained(make_stage, kind, partial(lora_config, settings), few, tmp_path)
    assert "shared out among 2 processes" in first["said"]
    assert course(first["said"]) == pytest.approx(course(alone["said"]), rel=1e-3)
    assert first["metrics"]["train_loss"] == pytest.approx(alone["metrics"]["train_loss"], rel=0.01)
    assert first["metrics"]["eval_loss"] == pytest.approx(alone["metrics"]["eval_loss"], rel=0.01)
    weights, other = (load_file(each["folder"] / "adapter_model.safetensors") for each in (first, second))
    single = load_file(alone["folder"] / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in weights.items()} == {k: v.shape for k, v in single.items()}
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), first["folder"])
    assert (first["folder"] / "four_bit_base.json").exists() is (kind == "QLoRA")
