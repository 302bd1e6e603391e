"""How much a forward pass takes: as many samples as the GPU has use and memory for, the optimizer step's the same.

Every learned token of a step weighs the same, so a step's samples may be cut into forward passes in any way: the
gradient is the same sum. A GPU that is given 2,048 tokens at a time idles half of the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from heapq import nlargest
from itertools import chain
from typing import TYPE_CHECKING

import torch

from finetune_api.training import TrainingArgs
from finetune_trainer.data import Tokens, lengths_of
from finetune_trainer.memory import free_gpu_memory
from finetune_trainer.report import Reporter
from finetune_trainer.training.meter import peak_memory
from finetune_trainer.training.setup import Setup
from finetune_trainer.training.world import Alone, World

if TYPE_CHECKING:
    from finetune_trainer.training.retreat import Retreat  # of several ranks alone

Parts = Sequence[Sequence[int]]
# More tokens in a forward pass were measured to gain less than half a point of the GPU's limit.
ENOUGH_TOKENS = 16_384
# What one pass took is extrapolated; the rest is room for the allocator's fragments.
_SHARE_OF_FREE_MEMORY = 0.8
_ADAM_BYTES_PER_PARAMETER = 8


@dataclass(frozen=True)
class Passes:
    """How much a forward pass takes: so many samples, or where `tokens` is given as many as have so many tokens."""

    samples: int
    tokens: int | None = None

    def __str__(self) -> str:
        return f"{self.samples} samples" if self.tokens is None else f"{self.tokens} tokens"

    def cut(self, parts: Parts, planned: int, lengths: Sequence[int], world: World) -> Parts:
        """A step's `parts`, planned as passes of `planned` samples, as the passes that are done.

        `lengths` are those of all samples. All ranks do as many passes: where the model is sharded they must.
        """
        if self.tokens is None:
            return regrouped(parts, planned, self.samples)
        together = by_tokens(tuple(chain(*parts)), lengths, self.tokens)
        return split_up(together, -world.least(-len(together)))

    @property
    def may_halve(self) -> bool:
        """Whether there is less than this to take."""
        return (self.samples if self.tokens is None else self.tokens) > 1

    def halved(self) -> Passes:
        """Half as much."""
        if self.tokens is None:
            return replace(self, samples=(self.samples + 1) // 2)
        return replace(self, tokens=(self.tokens + 1) // 2)

    def on_all(self, world: World) -> Passes:
        """The least that any rank of `world` takes; by samples where one of them counts those."""
        return Passes(world.least(self.samples), world.least(self.tokens or 0) or None)


@dataclass(frozen=True)
class Fit:
    """How a forward pass fits: samples, its peak in bytes, and whether activations are computed again."""

    size: int
    taken: int
    recomputing: bool


@dataclass(frozen=True)
class Fill:
    """What a pass was measured to need: `taken` of `free` bytes for its `tokens`."""

    tokens: int
    taken: int
    free: int

    def room(self) -> int:
        """The tokens that a pass may have, memory growing with them; none where nothing is free."""
        return max(0, int(self.free * _SHARE_OF_FREE_MEMORY)) * self.tokens // max(1, self.taken)


def regrouped(parts: Parts, planned: int, size: int) -> Parts:
    """A step's `parts`, planned as passes of `planned` samples, as passes of about `size`, in the same order."""
    if size < planned:
        return [part[start : start + size] for part in parts for start in range(0, len(part), size)]
    together = size // planned
    return [tuple(chain(*parts[start : start + together])) for start in range(0, len(parts), together)]


def by_tokens(indexes: Sequence[int], lengths: Sequence[int], tokens: int) -> list[tuple[int, ...]]:
    """`indexes` of samples in runs of at most `tokens` tokens, in the same order; a longer sample is a run alone.

    The index after the last of `lengths` is the filler, as long as the first sample.
    """
    runs: list[list[int]] = []
    room = 0
    for index in indexes:
        length = lengths[index if index < len(lengths) else 0]
        if not runs or length > room:
            runs.append([])
            room = tokens
        runs[-1].append(index)
        room -= length
    return [tuple(run) for run in runs]


def split_up(runs: Sequence[tuple[int, ...]], number: int) -> Parts:
    """`runs` as `number` runs, by cutting the largest in halves; as they are where there are as many."""
    found = list(runs)
    while len(found) < number:
        place = max(range(len(found)), key=lambda index: len(found[index]))
        run = found[place]
        found[place : place + 1] = [run[: len(run) // 2], run[len(run) // 2 :]]
    return found


def fitted(
    setup: Setup,
    samples: Sequence[Tokens],
    args: TrainingArgs,
    recompute: Callable[[], None],
    report: Reporter,
    retreat: Retreat | None = None,
) -> Passes:
    """What a forward pass takes; `args.per_device_train_batch_size` samples on a CPU.

    Does one forward and backward pass over the longest samples, and logs its peak: memory that is too small shows
    before anything is learned. Where it does not fit, passes get smaller (autoBatchSize) and then activations are
    computed again (`recompute`, unless gradientCheckpointing decides it), on all ranks alike; with `retreat`, for a
    model that ranks compute together, by starting them again. Where it fits a GPU, a step's equal samples are joined,
    and any that lie side by side. Raises torch's OutOfMemoryError where neither helps.
    """
    planned = args.per_device_train_batch_size
    lengths = lengths_of(samples)
    longest = [samples[index] for index in nlargest(planned, range(len(samples)), key=lengths.__getitem__)]
    on_gpu = setup.device.type == "cuda"
    free = free_memory(setup) if on_gpu else sys.maxsize
    one_pass = _bytes_of_one_pass if on_gpu else _one_pass
    with retreat.watching() if retreat else nullcontext():
        fit = settle(args, lambda size: one_pass(setup, longest[:size]), recompute, free, setup.world, retreat)
    tokens = setup.collate.tokens(longest[: fit.size])
    if on_gpu:
        taken = f"{tokens} tokens, takes {fit.taken / 2**30:.1f} GiB of {free / 2**30:.1f} GiB free"
    else:
        taken = f"{tokens} tokens: at most {peak_memory(setup.device) / 2**20:.0f} MiB so far"
    report.log(f"a forward and backward pass over the longest {min(fit.size, len(longest))} samples, {taken}")
    if fit.size < planned:
        report.log(f"passes: of {fit.size} samples, since {planned} do not fit into memory")
    if fit.recomputing:
        report.log("activations: computed again in the backward pass, since memory asks for it")
    by_samples = setup.collate.side_by_side is None
    if not on_gpu or not args.auto_batch_size or (by_samples and fit.size < planned):
        return Passes(fit.size)
    return joined(setup, lengths, args, Fill(tokens, fit.taken, free), report)


def joined(setup: Setup, lengths: Sequence[int], args: TrainingArgs, fill: Fill, report: Reporter) -> Passes:
    """Passes of more than the planned samples, where memory allows and the GPU has use for them."""
    planned, passes = args.per_device_train_batch_size, args.gradient_accumulation_steps
    if setup.collate.side_by_side is not None:
        tokens = max(fill.tokens, min(ENOUGH_TOKENS, fill.room()))
        report.log(f"passes: samples lie side by side, up to {tokens} tokens of a step in each pass")
        return Passes(planned, tokens)
    uniform = len({max(setup.collate.length or 0, length) for length in lengths}) == 1
    if not uniform or args.group_by_length or passes == 1:
        return Passes(planned)
    together = passes_together(passes, fill)
    report.log(f"passes: {together} of a step's {passes} are taken together")
    return Passes(planned * together)


def ways(args: TrainingArgs) -> Iterator[tuple[int, bool]]:
    """How a forward pass may be done, one after the other: of so many samples, computing activations again or not."""
    size = args.per_device_train_batch_size
    yield size, False
    while args.auto_batch_size and size > 1:
        size = (size + 1) // 2
        yield size, False
    if args.gradient_checkpointing is None:
        yield size, True


def settle(
    args: TrainingArgs,
    measure: Callable[[int], int],
    recompute: Callable[[], None],
    free: int = sys.maxsize,
    world: World | None = None,
    retreat: Retreat | None = None,
) -> Fit:
    """The first of `ways` that takes at most `free` bytes on all ranks, by what `measure` says of so many samples.

    All ranks come to the same: each tells the others how it went, or, where they compute a pass together and one had to
    leave it, all `retreat`; they begin with the next way then. Raises OutOfMemoryError on all where no way fits.
    """
    world, found = world or Alone(), list(ways(args))
    first = min(retreat.tries, len(found) - 1) if retreat else 0
    for number, (size, recomputing) in enumerate(found[first:], first + 1):
        if recomputing:
            recompute()
        taken, said = 0, ""
        try:
            taken = measure(size)
        except torch.OutOfMemoryError as error:
            said = str(error) or "out of memory"  # the error itself would hold the pass's tensors
            if retreat and number == len(found):
                raise
        if said and retreat:
            retreat.now(f"a pass of {size} samples does not fit ({said})")
        if not world.any(bool(said) or taken > free):
            return Fit(size, taken, recomputing)
    if taken > free:
        said = f"a pass takes {taken} bytes, and {free} are left beside the optimizer's state"
    raise torch.OutOfMemoryError(said or "a pass does not fit on another rank")


def passes_together(passes: int, fill: Fill) -> int:
    """The largest divisor of `passes` that so many passes, each filled as `fill` says, may be joined by."""
    bound = min(ENOUGH_TOKENS, fill.room()) // fill.tokens
    return max(divisor for divisor in range(1, passes + 1) if passes % divisor == 0 and divisor <= max(1, bound))


def free_memory(setup: Setup) -> int:
    """Bytes of the GPU's memory that a pass may take, once the optimizer's state has its place."""
    optimizer = _ADAM_BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in setup.trained())
    return free_gpu_memory(setup.device) - optimizer


def _bytes_of_one_pass(setup: Setup, samples: Sequence[Tokens]) -> int:
    """Peak memory of a pass over `samples` beyond what was held before it."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setup.device)
    held = torch.cuda.memory_allocated(setup.device)
    _one_pass(setup, samples)
    taken = torch.cuda.max_memory_allocated(setup.device) - held
    torch.cuda.empty_cache()
    return int(taken)


def _one_pass(setup: Setup, samples: Sequence[Tokens]) -> int:
    """Forward and backward over `samples`; random state and gradients are as before. What it takes is not known: 0."""
    setup.model.train()
    try:
        with torch.random.fork_rng(devices=[setup.device] if setup.device.type == "cuda" else []):
            batch = setup.collate(samples)
            setup.loss(batch, max(1, batch.learned)).backward()
    finally:
        for parameter in setup.trained():
            parameter.grad = None
    return 0
