"""Which samples each step learns from, and at which rate."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.training import TrainingArgs
from finetune_trainer.training.plan import Plan
from finetune_trainer.training.schedules import learning_rate


def args(**values: Any) -> TrainingArgs:
    return TrainingArgs.model_validate(values)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    batch=st.integers(1, 8),
    accumulation=st.integers(1, 5),
    grouped=st.booleans(),
)
def test_an_epoch_takes_every_sample_once(lengths: list[int], batch: int, accumulation: int, grouped: bool) -> None:
    plan = Plan(
        lengths,
        args(
            perDeviceTrainBatchSize=batch,
            gradientAccumulationSteps=accumulation,
            groupByLength=grouped,
            numTrainEpochs=2,
        ),
    )
    steps = list(plan.steps())
    assert len(steps) == plan.total == 2 * plan.steps_per_epoch
    assert [step.ends_epoch for step in steps].count(True) == 2
    for epoch in (steps[: plan.steps_per_epoch], steps[plan.steps_per_epoch :]):
        taken = chain.from_iterable(chain.from_iterable(step.micro_batches for step in epoch))
        assert sorted(taken) == list(range(len(lengths)))
    assert all(len(part) <= batch for step in steps for part in step.micro_batches)
    assert all(1 <= len(step.micro_batches) <= accumulation for step in steps)


@given(after=st.integers(0, 29))
def test_a_resumed_plan_goes_on_as_if_it_had_not_stopped(after: int) -> None:
    plan = Plan([5] * 23, args(perDeviceTrainBatchSize=2, maxSteps=30))
    assert list(plan.steps())[after:] == list(plan.steps(after))


def test_epochs_differ_in_order_and_seeds_too() -> None:
    plan = Plan([5] * 16, args(maxSteps=32))
    first, second = [], []
    for step in plan.steps():
        (first if step.number <= 16 else second).append(step.micro_batches)
    assert first != second
    assert [step.micro_batches for step in Plan([5] * 16, args(maxSteps=32, dataSeed=7)).steps()] != first + second


def test_data_seed_alone_decides_the_order() -> None:
    one = Plan([5] * 16, args(seed=1, dataSeed=3, maxSteps=16))
    two = Plan([5] * 16, args(seed=2, dataSeed=3, maxSteps=16))
    assert list(one.steps()) == list(two.steps())


def test_grouping_by_length_saves_padding() -> None:
    lengths = [1, 100] * 40

    def padded(grouped: bool) -> int:
        plan = Plan(lengths, args(perDeviceTrainBatchSize=8, groupByLength=grouped, numTrainEpochs=1))
        parts = chain.from_iterable(step.micro_batches for step in plan.steps())
        return sum(len(part) * max(lengths[index] for index in part) for part in parts)

    assert padded(True) < 0.7 * padded(False)


def test_a_part_of_an_epoch_is_rounded_up_to_whole_steps() -> None:
    assert Plan([5] * 10, args(perDeviceTrainBatchSize=4, numTrainEpochs=0.5)).total == 2


@pytest.mark.parametrize("kind", ["constant", "constant_with_warmup", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [{"warmupSteps": 7}, {"warmupRatio": 0.1}, {}])
def test_schedules_are_those_of_transformers(kind: str, warmup: dict[str, float]) -> None:
    torch = pytest.importorskip("torch")
    from transformers.optimization import get_scheduler

    settings, total = args(lrSchedulerType=kind, learningRate=3e-3, **warmup), 43
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    steps = warmup.get("warmupSteps", math.ceil(total * warmup.get("warmupRatio", 0)))
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=steps, num_training_steps=total)
    for step in range(1, total + 1):
        assert learning_rate(settings, step, total) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()
