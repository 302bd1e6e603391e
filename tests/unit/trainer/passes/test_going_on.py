"""Passes that begin with the input model's adapter: they go on from it, merge it, build with it, measure it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.passes import lora, merge
from finetune_trainer.training.world import Alone, World

from .ranks import together


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def going_on(run_stage: Callable, lora_config: Callable) -> Callable[..., Any]:
    """going_on(from adapter, passes, kind=…, training arguments) -> the stage that went on."""

    def run(start: Path, passes: dict[str, Any] | None = None, *, kind: str = "LoRA", **args: Any) -> Any:
        settings = {"maxSteps": 2, "learningRate": 1e-9, "warmupSteps": 0, "lrSchedulerType": "constant"} | args
        return run_stage(lora, kind, lora_config(passes, **settings), inputs={"adapter": start}, data={"train": {}})

    return run


def test_training_goes_on_from_the_adapters_weights(adapter: Any, going_on: Callable) -> None:
    """With a learning rate of next to nothing the adapter stays what it was; drawn anew, its B would be near zero."""
    before, after = weights(adapter.folder), weights(going_on(adapter.folder).folder)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.allclose(tensor, after[name], atol=1e-6), name


def test_what_was_learned_is_there_at_the_first_step(adapter: Any, going_on: Callable) -> None:
    ran = going_on(adapter.folder, loggingSteps=1)
    first = next(line["loss"] for line in ran.progress if "loss" in line)
    course = [line["loss"] for line in adapter.progress if "loss" in line]
    assert first < (course[0] + course[-1]) / 2, (first, course)


def test_it_takes_the_adapters_modules(
    run_stage: Callable, lora_config: Callable, going_on: Callable, base_model: Path
) -> None:
    settings = {"targetModules": ["down_proj"], "modulesToSave": ["lm_head"]}
    start = run_stage(lora, "LoRA", lora_config(settings, maxSteps=2), data={"train": {}}).folder
    after = going_on(start).folder
    config = json.loads((after / "adapter_config.json").read_text())
    assert (config["target_modules"], config["modules_to_save"]) == (["down_proj"], ["lm_head"])
    head = "base_model.model.lm_head.weight"
    assert torch.allclose(weights(start)[head], weights(after)[head], atol=1e-6)
    assert not torch.allclose(weights(start)[head], load_file(base_model / "model.safetensors")["lm_head.weight"])


def test_dora_and_qlora_go_on_too(run_stage: Callable, lora_config: Callable, adapter: Any, going_on: Callable) -> None:
    start = run_stage(lora, "DoRA", lora_config(maxSteps=2), data={"train": {}}).folder
    after = weights(going_on(start, kind="DoRA").folder)
    for name, tensor in weights(start).items():
        assert torch.allclose(tensor, after[name], atol=1e-6), name
    over_4_bits = going_on(adapter.folder, kind="QLoRA").folder
    assert (over_4_bits / "four_bit_base.json").is_file()
    for name, tensor in weights(adapter.folder).items():
        assert torch.allclose(tensor, weights(over_4_bits)[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("LoRA", {}), ("LoRA", {"sharding": "fsdp"}), ("QLoRA", {"sharding": "fsdp"})],
    ids=["whole", "sharded", "sharded, 4 bits"],
)
def test_two_ranks_go_on_as_one_process_does(
    adapter: Any, make_stage: Callable, lora_config: Callable, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    steps = {"maxSteps": 3, "loggingSteps": 1, "warmupSteps": 0, "lrSchedulerType": "constant", "learningRate": 1e-4}
    passes = {"loraDropout": 0} | settings

    def on(world: World, accumulated: int) -> tuple[float, Path]:
        config = lora_config(passes, gradientAccumulationSteps=accumulated, perDeviceTrainBatchSize=4, **steps)
        context, _ = make_stage(kind, config, inputs={"adapter": adapter.folder}, data={"train": {}})
        found = lora.run(replace(context, world=world))
        return found.metrics["train_loss"], context.output

    alone, folder = on(Alone(), 2)
    before, after = weights(adapter.folder), weights(folder)
    for loss, folder in together(lambda world: on(world, 1), tmp_path):
        found = weights(folder)
        assert loss == pytest.approx(alone, rel=0.01)
        assert found.keys() == before.keys()
        moved = max(float((found[name] - before[name]).abs().max()) for name in before)
        assert 0 < moved < 1e-2, "it went on from the adapter's weights"
        assert all(torch.allclose(found[name], after[name], atol=2e-4) for name in found)


def test_an_adapter_of_another_model_is_refused(adapter: Any, going_on: Callable, tmp_path: Path) -> None:
    shutil.copytree(adapter.folder, tmp_path / "other")
    cut = {name: tensor[:, :8].contiguous() for name, tensor in weights(adapter.folder).items()}
    save_file(cut, tmp_path / "other" / "adapter_model.safetensors")
    with pytest.raises(StageFailure, match="has the shape") as caught:
        going_on(tmp_path / "other")
    assert caught.value.reason is Reason.MODEL_INVALID
    assert caught.value.problems[0].path == "spec.inputModel.adapterPath"


def test_merging_it_is_merging_that_of_a_pass(adapter: Any, merged: Any, run_stage: Callable) -> None:
    """A stage is given one adapter, wherever it is from: the merge is the same."""
    again = run_stage(merge, "MergeAdapterWeights", {}, inputs={"adapter": adapter.folder}).folder
    assert (again / "model.safetensors").read_bytes() == (merged.folder / "model.safetensors").read_bytes()
