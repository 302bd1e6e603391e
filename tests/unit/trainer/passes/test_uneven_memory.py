"""One rank has less memory than the others: all come to the same, and none waits for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_api.stage import Reason
from finetune_trainer.failures import failure_of
from finetune_trainer.passes import lora
from finetune_trainer.ranks import AGAIN, TRIES_ENV
from finetune_trainer.training import micro_batches
from finetune_trainer.training.setup import Setup
from finetune_trainer.training.world import World

from .ranks import endings, together

STEPS = {"maxSteps": 2, "loggingSteps": 1, "perDeviceTrainBatchSize": 4, "warmupSteps": 0}


def short_of_memory(world: World, most: int) -> None:
    """The second rank has memory for passes of `most` samples: a larger one ends in the midst of its last layer."""
    if world.rank != 1:
        return
    before = micro_batches._one_pass

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("this rank's GPU is full")

    def one_pass(setup: Setup, samples: Any) -> int:
        if len(samples) <= most:
            return before(setup, samples)
        *_, layer = (item for item in setup.model.modules() if isinstance(item, GradientCheckpointingLayer))
        hook = layer.register_forward_pre_hook(refuse)
        try:
            return before(setup, samples)
        finally:
            hook.remove()

    micro_batches._one_pass = one_pass  # this process is the rank's own


@pytest.fixture
def train(make_stage: Callable, lora_config: Callable) -> Callable[..., Any]:
    """train(memory for so many samples, sharding or not, arguments) -> what a rank does."""

    def make(most: int, sharding: str | None = None, **args: Any) -> Callable[[World], tuple[str, float]]:
        config = lora_config({"loraDropout": 0} | ({"sharding": sharding} if sharding else {}), **{**STEPS, **args})

        def part(world: World) -> tuple[str, float]:
            short_of_memory(world, most)
            context, stream = make_stage("LoRA", config, data={"train": {}})
            loss = lora.run(replace(context, world=world)).metrics["train_loss"]
            return stream.getvalue(), loss

        return part

    return make


def test_ranks_with_the_whole_model_agree_on_smaller_passes(train: Callable, tmp_path: Path) -> None:
    found = together(train(most=2, autoBatchSize=True), tmp_path)
    for said, _ in found:
        assert "passes: of 2 samples, since 4 do not fit into memory" in said
    assert "computed again" not in found[0][0]
    plain = together(train(most=4, autoBatchSize=True), tmp_path / "plain")
    assert "passes: of" not in plain[0][0]
    assert found[0][1] == pytest.approx(plain[0][1], rel=1e-4)


def test_ranks_with_the_whole_model_agree_that_nothing_fits(train: Callable, tmp_path: Path) -> None:
    def outcome(world: World) -> str:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            train(most=0, gradientCheckpointing=True, autoBatchSize=True)(world)
        return str(caught.value)

    since = time.monotonic()
    assert together(outcome, tmp_path) == ["a pass does not fit on another rank", "this rank's GPU is full"]
    assert time.monotonic() - since < 60


def test_ranks_that_compute_together_start_again_together(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rank waits in the gathering of a layer that the second never came to."""
    part = train(most=2, sharding="fsdp", autoBatchSize=True)
    assert endings(part, tmp_path) == [AGAIN, AGAIN]
    monkeypatch.setenv(TRIES_ENV, "1")
    for said, loss in together(part, tmp_path / "again"):
        assert "passes: of 2 samples, since 4 do not fit into memory" in said
        assert loss > 0


def test_a_rank_that_nothing_fits_on_ends_as_out_of_memory(
    train: Callable, make_stage: Callable, lora_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tried last was the last way: nothing is started again. The other rank only lost its company."""
    monkeypatch.setenv(TRIES_ENV, "9")
    document = make_stage("LoRA", lora_config(), data={"train": {}})[0].document

    def outcome(world: World) -> Reason:
        with pytest.raises(Exception) as caught:
            train(most=0, sharding="fsdp", autoBatchSize=True)(world)
        return failure_of(caught.value, document).reason

    assert together(outcome, tmp_path) == [Reason.RANK_LOST, Reason.OUT_OF_MEMORY]
