"""trainingArgs.extraArgs: each one that is taken makes a difference that can be seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_api.data import PreProcessDataConfig
from finetune_api.extra_args import ExtraArgs
from finetune_trainer.passes import lora
from finetune_trainer.training.kernels import COMPILE_FROM_FLOP, Work, choose

from .test_training_args import Ran, order

SMALL = Work("phi3", "cuda", plain_head=True, uniform=True, flop=COMPILE_FROM_FLOP / 10)


@pytest.fixture(autouse=True)
def own_arithmetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a stage sets for its process ends with the test."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    yield
    lora.set_arithmetic(ExtraArgs())


def emptied(**given: Any) -> list[int]:
    """How often a training of six steps empties the allocator's cache."""
    times: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "empty_cache", lambda: times.append(1))
        Ran(**given)
    return times


def arithmetic(extraArgs: dict[str, str] | None = None) -> tuple[Any, ...]:  # noqa: N803  (the field's name)
    lora.set_arithmetic(ExtraArgs.model_validate(extraArgs or {}))
    backends = torch.backends
    deterministic = torch.are_deterministic_algorithms_enabled(), os.environ["CUBLAS_WORKSPACE_CONFIG"]
    return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, *deterministic


def pinned(extraArgs: dict[str, str] | None = None) -> bool:  # noqa: N803
    extra = ExtraArgs.model_validate(extraArgs or {})
    tokenizer: Any = SimpleNamespace(pad_id=0)
    device = torch.device("cuda", 0)
    return lora.collator(PreProcessDataConfig(), tokenizer, device, pin_memory=extra.dataloader_pin_memory).pin_memory


def compiled(extraArgs: dict[str, str] | None = None) -> bool:  # noqa: N803
    return choose(SMALL, liger=True, compiling=ExtraArgs.model_validate(extraArgs or {}).torch_compile).compiled


EPOCHS = {"maxSteps": None, "numTrainEpochs": 2, "perDeviceTrainBatchSize": 3}
EVALUATED = {"evalStrategy": "steps", "evalSteps": 1}
TABLE: dict[str, tuple[str, dict[str, Any], Callable[..., Any]]] = {
    "dataloader_drop_last": ("true", EPOCHS, order),
    "dataloader_pin_memory": ("false", {}, pinned),
    "eval_delay": ("4", EVALUATED, lambda **given: Ran(**given).evaluated),
    "eval_on_start": ("true", EVALUATED, lambda **given: Ran(**given).evaluated),
    "full_determinism": ("true", {}, arithmetic),
    "logging_strategy": ("epoch", EPOCHS | {"loggingSteps": 2}, lambda **given: Ran(**given).logged),
    "tf32": ("true", {}, arithmetic),
    "torch_compile": ("true", {}, compiled),
    "torch_empty_cache_steps": ("2", {}, emptied),
    "train_sampling_strategy": ("sequential", {}, order),
}


def test_in_sequence_means_the_rows_own_order_in_every_epoch() -> None:
    taken = order(**EPOCHS, extraArgs={"train_sampling_strategy": "sequential"})
    assert [index for step in taken for part in step for index in part] == [*range(20)] * 2


def test_progress_is_written_at_the_ends_of_epochs_or_at_the_end_alone() -> None:
    steps = {**EPOCHS, "loggingSteps": 1}
    assert Ran(**steps, extraArgs={"logging_strategy": "epoch"}).logged == [7, 14]
    assert Ran(**steps, extraArgs={"logging_strategy": "no"}).logged == [14]


def test_a_training_in_a_fixed_order_learns_the_same() -> None:
    """Every operation of the loop has a deterministic form: torch would say so otherwise."""
    lora.set_arithmetic(ExtraArgs(full_determinism=True))
    fixed = Ran().weights
    lora.set_arithmetic(ExtraArgs())
    assert torch.equal(fixed, Ran().weights)


def test_compiling_is_what_is_asked_for_where_it_was_verified() -> None:
    assert not choose(Work("phi3", "cuda", True, True, COMPILE_FROM_FLOP), liger=True, compiling=False).compiled
    assert "as extraArgs.torch_compile says" in choose(SMALL, liger=True, compiling=True).reasons[1]
    assert not choose(Work("gpt2", "cuda", True, True, 1.0), liger=True, compiling=True).compiled
    assert not choose(Work("phi3", "cpu", True, True, 1.0), liger=True, compiling=True).compiled
