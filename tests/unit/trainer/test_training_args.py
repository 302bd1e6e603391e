"""What trainingArgs do in a training; that each field makes a difference is in test_every_field."""

from __future__ import annotations

import io
import json
import math
import threading
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.training import TrainingArgs
from finetune_trainer.data import Tokens
from finetune_trainer.errors import StageFailure
from finetune_trainer.report import Reporter
from finetune_trainer.training.batches import Collator
from finetune_trainer.training.best import Best
from finetune_trainer.training.loop import Outcome, Surroundings, Training
from finetune_trainer.training.micro_batches import regrouped, settle
from finetune_trainer.training.neftune import add_noise
from finetune_trainer.training.optimizers import make_optimizer, parameter_groups, require_optimizer
from finetune_trainer.training.plan import Plan
from finetune_trainer.training.saving import Saver
from finetune_trainer.training.schedules import learning_rate
from finetune_trainer.training.setup import Setup
from finetune_trainer.training.stalling import StallWatch
from finetune_trainer.training.trackers import Trackers

CPU = torch.device("cpu")
VOCABULARY = 16


class Bigram(torch.nn.Module):
    """The least language model: each token predicts the next. `fail` is called with each batch's samples."""

    def __init__(self, fail: Callable[[int], None] = lambda samples: None) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, 8)
        self.dropout = torch.nn.Dropout(0.1)
        self.norm = torch.nn.LayerNorm(8)
        self.head = torch.nn.Linear(8, VOCABULARY)
        self.fail = fail

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **more: Any) -> Any:
        if self.training:
            self.fail(len(input_ids))
        logits = self.head(self.norm(self.dropout(self.embedding(input_ids))))
        if labels is None:
            return SimpleNamespace(logits=logits)
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )
        return SimpleNamespace(loss=loss / more["num_items_in_batch"])


def args(**values: Any) -> TrainingArgs:
    return TrainingArgs.model_validate({"maxSteps": 6, "learningRate": 0.05, **values})


def samples(count: int, length: int = 5) -> list[Tokens]:
    return [Tokens([(start + step) % VOCABULARY for step in range(length)], [True] * length) for start in range(count)]


class Ran:
    """A training of the bigram on 20 samples, 6 held out, and what it said."""

    def __init__(self, fail: Callable[[int], None] = lambda samples: None, **values: Any) -> None:
        parsed, stream = args(**values), io.StringIO()
        torch.manual_seed(0)
        model = Bigram(fail)
        if parsed.neftune_noise_alpha:
            add_noise(model.embedding, parsed.neftune_noise_alpha)
        report = Reporter(stream)
        held_out = [Tokens([0, 9, 3, 7, 1], [True] * 5)] * 6
        self.outcome: Outcome = Training(
            Setup(model, CPU, None, Collator(0)),
            make_optimizer(parsed, model),
            samples(20),
            held_out,
            parsed,
            Surroundings(report, Trackers({}, report)),
        ).run()
        self.said = stream.getvalue()
        self.lines = [json.loads(line) for line in self.said.splitlines() if line.startswith("{")]
        self.logged = [line["step"] for line in self.lines if "loss" in line]
        self.evaluated = [line["step"] for line in self.lines if "evalLoss" in line]
        self.eval_loss = self.outcome.eval_loss
        self.weights = torch.cat([item.detach().flatten() for item in model.parameters()])


def same(one: Ran, other: Ran) -> bool:
    return torch.equal(one.weights, other.weights)


def optimizer(**values: Any) -> torch.optim.Optimizer:
    return make_optimizer(args(**values), Bigram())


def group(**values: Any) -> dict[str, Any]:
    return optimizer(**values).param_groups[0]


def plan(**values: Any) -> Plan:
    return Plan([3, 9] * 10, args(**values))


def order(**values: Any) -> list[Any]:
    return [step.micro_batches for step in plan(**values).steps()]


def saves(**values: Any) -> list[int]:
    """The steps, of 12 in two epochs, after which a checkpoint falls due."""
    parsed = args(maxSteps=12, perDeviceTrainBatchSize=4, **values)
    saver = Saver(None, parsed, Path(), Reporter(io.StringIO()))  # type: ignore[arg-type]
    due = []
    for step in Plan([1] * 24, parsed).steps():
        if saver.due(step):
            due.append(step.number)
            saver._overdue, saver._saved_at = False, time.monotonic()
    return due


def judged(parsed: TrainingArgs, *losses: float) -> bool:
    """Whether it is time to stop after evaluations with these losses."""
    best = Best(parsed)
    for step, loss in enumerate(losses):
        best.judge(loss, step, Bigram())
    return best.exhausted


SCHEDULES = [
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("cosine_with_min_lr", {"min_lr": 0.01}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.25, "num_cycles": 1}),
    ("polynomial", {}),
    ("polynomial", {"power": 2.5, "lr_end": 0.001}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 7}),
    ("warmup_stable_decay", {"num_decay_steps": 5}),
    ("warmup_stable_decay", {"num_decay_steps": 4, "num_stable_steps": 6, "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "warmup_type": "cosine", "decay_type": "linear"}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "warmup_type": "1-sqrt", "decay_type": "1-sqrt"}),
]


@pytest.mark.parametrize(("name", "kwargs"), SCHEDULES, ids=str)
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules_are_transformers_own(name: str, kwargs: dict[str, Any], warmup: int) -> None:
    from transformers import get_scheduler

    total, rate = 25, 0.3
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    theirs = get_scheduler(name, sgd, warmup, total, scheduler_specific_kwargs=dict(kwargs))
    ours = TrainingArgs(
        learning_rate=rate, lr_scheduler_type=name, warmup_steps=warmup, lr_scheduler_kwargs=kwargs or None
    )
    expected = [rate * theirs.lr_lambdas[0](step) for step in range(total)]
    assert [learning_rate(ours, step + 1, total) for step in range(total)] == pytest.approx(expected, rel=1e-9)


RUN_ON_CPU = ["adamw_torch", "adamw_torch_fused", "adamw_8bit", "adafactor", "sgd", "lion_8bit", "lion_32bit"]


@pytest.mark.parametrize("optim", RUN_ON_CPU)
def test_every_optimizer_learns(optim: str) -> None:
    rate = {"sgd": 0.5, "adafactor": 0.1}.get(optim, 0.02)
    ran = Ran(optim=optim, learningRate=rate, maxSteps=40, loggingSteps=5, perDeviceTrainBatchSize=4)
    losses = [line["loss"] for line in ran.lines if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]


def test_those_that_page_to_the_host_are_refused_without_a_gpu() -> None:
    names = TrainingArgs.model_fields["optim"].annotation.__args__  # type: ignore[union-attr]
    for optim in names:
        if optim in RUN_ON_CPU:
            require_optimizer(args(optim=optim), CPU, "p")
        else:
            with pytest.raises(StageFailure, match=r"p\.optim .*this pod has no GPU"):
                require_optimizer(args(optim=optim), CPU, "p")
            require_optimizer(args(optim=optim), torch.device("cuda"), "p")


def test_biases_and_norms_are_not_decayed() -> None:
    model = Bigram()
    decayed, plain = parameter_groups(model, 0.1)
    assert {id(item) for item in decayed["params"]} == {id(model.embedding.weight), id(model.head.weight)}
    assert len(plain["params"]) == 3
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


def test_smoothing_is_torchs_own_and_evaluation_is_without_it() -> None:
    model, batch = Bigram().eval(), Collator(0)(samples(3))
    setup = Setup(model, CPU, None, Collator(0))
    logits = model(batch.input_ids).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch.labels[:, 1:].flatten(), label_smoothing=0.3)
    assert setup.loss(batch, batch.learned, smoothing=0.3).item() == pytest.approx(expected.item(), rel=1e-6)
    assert setup.loss(batch, batch.learned).item() < expected.item() + 1


def test_noise_is_bounded_as_in_the_paper_and_absent_from_evaluation() -> None:
    embedding = torch.nn.Embedding(VOCABULARY, 8)
    ids = torch.arange(10).reshape(2, 5)
    clean = embedding(ids)
    add_noise(embedding, 5.0)
    added = (embedding(ids) - clean).abs()
    assert 0 < added.max() <= 5 / math.sqrt(5 * 8) + 1e-6
    assert torch.equal(embedding.eval()(ids), clean)


def test_the_evaluations_batch_is_its_own() -> None:
    one, other = Ran(perDeviceEvalBatchSize=1), Ran(perDeviceEvalBatchSize=6)
    assert one.outcome.eval_loss == pytest.approx(other.outcome.eval_loss)


def test_the_best_adapter_is_kept_and_its_loss_is_told() -> None:
    """The held-out samples contradict what is learned: the first evaluation is the best."""
    every = {"evalStrategy": "steps", "evalSteps": 1, "maxSteps": 8, "learningRate": 0.1}
    ran, last = Ran(**every, loadBestModelAtEnd=True), Ran(**every)
    losses = [line["evalLoss"] for line in ran.lines if "evalLoss" in line]
    assert ran.outcome.eval_loss == min(losses) < losses[-1]
    assert ran.outcome.steps == 8
    best = losses.index(min(losses)) + 1
    assert f"the adapter of step {best} is kept" in ran.said
    assert not same(ran, last)
    stopped = Ran(**{**every, "maxSteps": 8}, earlyStoppingPatience=2)
    assert stopped.outcome.steps == best + 2 < 8
    assert stopped.outcome.eval_loss == ran.outcome.eval_loss and same(stopped, ran)
    assert f"stopping early: the best evaluation was after step {best}" in stopped.said


def test_evaluations_begin_after_the_delay_or_before_the_first_step() -> None:
    steps = {"evalStrategy": "steps", "evalSteps": 1}
    assert Ran(**steps, extraArgs={"eval_delay": "4"}).evaluated == [4, 5, 6]
    assert Ran(**steps, extraArgs={"eval_on_start": "true"}).evaluated == [0, 1, 2, 3, 4, 5, 6]


def test_out_of_memory_halves_the_passes_and_changes_no_step() -> None:
    def small_memory(taken: int) -> None:
        if taken > 3:
            raise torch.OutOfMemoryError(f"{taken} samples")

    wide = {"perDeviceTrainBatchSize": 10, "learningRate": 0.01}
    ran = Ran(small_memory, **wide)
    assert "out of memory: 5 samples per forward pass from here on" in ran.said
    assert "out of memory: 3 samples per forward pass from here on" in ran.said
    assert ran.outcome.tokens == Ran(**wide).outcome.tokens
    with pytest.raises(torch.OutOfMemoryError):
        Ran(small_memory, **wide, autoBatchSize=False)
    with pytest.raises(torch.OutOfMemoryError):
        Ran(lambda taken: small_memory(taken + 3), **wide)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.integers(1, 6), st.integers(1, 30))
def test_passes_are_cut_and_joined_in_order(sizes: list[int], planned: int, size: int) -> None:
    numbers = iter(range(1000))
    parts = [tuple(next(numbers) for _ in range(min(length, planned))) for length in sizes]
    found = regrouped(parts, planned, size)
    assert list(chain(*found)) == list(chain(*parts))
    assert all(1 <= len(part) <= max(size, 1) for part in found)


@pytest.mark.parametrize(
    ("free", "values", "expected"),
    [
        (8, {}, (8, False)),
        (4, {}, (4, False)),
        (1, {}, (1, False)),
        (0.5, {}, (1, True)),
        (4, {"autoBatchSize": False}, (8, True)),
        (0.2, {}, None),
        (0.5, {"gradientCheckpointing": False}, None),
        (0.5, {"gradientCheckpointing": True}, None),
    ],
)
def test_memory_decides_passes_first_and_then_activations(
    free: float, values: dict[str, Any], expected: tuple[int, bool] | None
) -> None:
    """A pass takes one unit of memory per sample, and half of it with activations computed again."""
    cost = [1.0]

    def measure(size: int) -> int:
        if size * cost[0] > free:
            raise torch.OutOfMemoryError
        return size

    def find() -> tuple[int, bool]:
        fit = settle(args(perDeviceTrainBatchSize=8, **values), measure, lambda: cost.__setitem__(0, 0.5))
        return fit.size, fit.recomputing

    if expected is None:
        with pytest.raises(torch.OutOfMemoryError):
            find()
    else:
        assert find() == expected


def test_a_step_that_hangs_ends_the_watch() -> None:
    ended = threading.Event()
    watch = StallWatch(0.8, lambda seconds: ended.set())
    with watch.watching():
        for _ in range(10):
            time.sleep(0.1)
            watch.beat()
        assert not ended.is_set()
        assert ended.wait(10)


def test_progress_tells_tokens_and_memory() -> None:
    ran = Ran(loggingSteps=2, perDeviceTrainBatchSize=2)
    lines = [line for line in ran.lines if "loss" in line]
    assert [line["tokensSeen"] for line in lines] == [20, 40, 60]
    assert all(line["memoryBytes"] > 2**20 and line["etaSeconds"] >= 0 for line in lines)
