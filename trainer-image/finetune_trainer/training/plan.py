"""Which samples each optimizer step learns from: pure, so any step can be resumed at."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_api.training import TrainingArgs
from finetune_trainer.training.sharing import share

# As in transformers: samples are sorted by length within so many batches, so that order stays random beyond them.
_BATCHES_SORTED_TOGETHER = 50


@dataclass(frozen=True)
class Step:
    """One optimizer step: its number from 1, the epochs done after it, and the samples of each forward pass.

    Under several ranks those of one rank; the index after the last sample stands for a filler.
    """

    number: int
    epoch: float
    ends_epoch: bool
    micro_batches: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Plan:
    """All steps of a training: a function of the samples' lengths (in tokens) and the arguments.

    All `ranks` ranks together take as many samples in a step as one process would with as much more accumulation,
    and the same ones; what `steps` gives is the share of `rank`.
    """

    lengths: Sequence[int]
    args: TrainingArgs
    rank: int = 0
    ranks: int = 1

    @property
    def batches_per_step(self) -> int:
        """Micro-batches of one optimizer step, over all ranks."""
        return self.args.gradient_accumulation_steps * self.ranks

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that go through the data once; the last one of an epoch may be smaller."""
        batches = len(self.lengths) / self.args.per_device_train_batch_size
        whole = math.floor(batches) if self._drops_last else math.ceil(batches)
        return math.ceil(whole / self.batches_per_step)

    @property
    def _drops_last(self) -> bool:
        """Whether an epoch leaves out its last batch where that is smaller; not if it is the only one."""
        return self.args.extra().dataloader_drop_last and len(self.lengths) >= self.args.per_device_train_batch_size

    @property
    def total(self) -> int:
        """Optimizer steps in all."""
        return self.args.max_steps or math.ceil(self.args.num_train_epochs * self.steps_per_epoch)

    def steps(self, after: int = 0) -> Iterator[Step]:
        """The steps that follow step number `after`."""
        for number in range(after + 1, self.total + 1):
            epoch, place = divmod(number - 1, self.steps_per_epoch)
            if place == 0 or number == after + 1:
                batches = self._epoch_batches(epoch)
            size = self.batches_per_step
            dealt = batches[place * size : (place + 1) * size]
            yield Step(
                number=number,
                epoch=number / self.steps_per_epoch,
                ends_epoch=place == self.steps_per_epoch - 1,
                micro_batches=share(dealt, self.rank, self.ranks, filler=len(self.lengths)),
            )

    def tokens(self, step: Step) -> int:
        """The tokens of the step's share, fillers left out."""
        own = (index for part in step.micro_batches for index in part if index < len(self.lengths))
        return sum(self.lengths[index] for index in own)

    def _epoch_batches(self, epoch: int) -> _Batches:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        rng = random.Random(f"{seed}/{epoch}")  # noqa: S311  (an order of samples, no secret)
        order = array("q", range(len(self.lengths)))
        if self.args.extra().train_sampling_strategy == "random":
            rng.shuffle(order)
        size = self.args.per_device_train_batch_size
        if self._drops_last:
            order = order[: len(order) // size * size]
        numbers = array("q", range(math.ceil(len(order) / size)))
        if self.args.group_by_length:
            together = size * _BATCHES_SORTED_TOGETHER
            for start in range(0, len(order), together):
                group = order[start : start + together]
                order[start : start + together] = array("q", sorted(group, key=lambda index: -self.lengths[index]))
            rng.shuffle(numbers)
        return _Batches(order, numbers, size)


@dataclass(frozen=True)
class _Batches:
    """An epoch's batches: `size` samples of `order` each, in the order of their `numbers`. 8 bytes a sample."""

    order: array[int]
    numbers: array[int]
    size: int

    def __getitem__(self, part: slice) -> list[tuple[int, ...]]:
        return [tuple(self.order[number * self.size : (number + 1) * self.size]) for number in self.numbers[part]]
