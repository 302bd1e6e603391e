"""How many samples a forward pass takes: as many as the GPU has use and memory for, the optimizer step's the same.

Every learned token of a step weighs the same, so a step's samples may be cut into forward passes in any way: the
gradient is the same sum. A GPU that is given 2,048 tokens at a time idles half of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import chain

import torch

from finetune_api.training import TrainingArgs
from finetune_trainer.data import Tokens, lengths_of
from finetune_trainer.memory import free_gpu_memory
from finetune_trainer.report import Reporter
from finetune_trainer.training.meter import peak_memory
from finetune_trainer.training.setup import Setup

Parts = Sequence[Sequence[int]]
# More tokens in a forward pass were measured to gain less than half a point of the GPU's limit.
ENOUGH_TOKENS = 16_384
# What one pass took is extrapolated; the rest is room for the allocator's fragments.
_SHARE_OF_FREE_MEMORY = 0.8
_ADAM_BYTES_PER_PARAMETER = 8


@dataclass(frozen=True)
class Fit:
    """How a forward pass fits: samples, its peak in bytes, and whether activations are computed again."""

    size: int
    taken: int
    recomputing: bool


def regrouped(parts: Parts, planned: int, size: int) -> Parts:
    """A step's `parts`, planned as passes of `planned` samples, as passes of about `size`, in the same order."""
    if size < planned:
        return [part[start : start + size] for part in parts for start in range(0, len(part), size)]
    together = size // planned
    return [tuple(chain(*parts[start : start + together])) for start in range(0, len(parts), together)]


def fitted(
    setup: Setup, samples: Sequence[Tokens], args: TrainingArgs, recompute: Callable[[], None], report: Reporter
) -> int:
    """Samples per forward pass; `args.per_device_train_batch_size` on a CPU.

    Does one forward and backward pass over the longest samples, and logs its peak: memory that is too small shows
    before anything is learned. On a GPU where it does not fit, passes get smaller (autoBatchSize) and then
    activations are computed again (`recompute`, unless gradientCheckpointing decides it); where it fits, a step's
    equal samples are joined. Raises torch's OutOfMemoryError where neither helps.
    """
    planned = args.per_device_train_batch_size
    lengths = lengths_of(samples)
    longest = [samples[index] for index in nlargest(planned, range(len(samples)), key=lengths.__getitem__)]
    if setup.device.type != "cuda":
        _one_pass(setup, longest)
        peak = peak_memory(setup.device) / 2**20
        report.log(
            f"a forward and backward pass over the longest {len(longest)} samples: at most {peak:.0f} MiB so far"
        )
        return planned
    free = free_memory(setup)
    fit = settle(args, lambda size: _require(_bytes_of_one_pass(setup, longest[:size]), free), recompute)
    padded = setup.collate.length or 0
    tokens = sum(max(padded, len(sample.ids)) for sample in longest[: fit.size])
    report.log(
        f"a forward and backward pass over the longest {fit.size} samples, {tokens} tokens, takes "
        f"{fit.taken / 2**30:.1f} GiB of {free / 2**30:.1f} GiB free"
    )
    if fit.size < planned:
        report.log(f"passes: of {fit.size} samples, since {planned} do not fit into memory")
    if fit.recomputing:
        report.log("activations: computed again in the backward pass, since memory asks for it")
    uniform = len({max(padded, length) for length in lengths}) == 1
    passes = args.gradient_accumulation_steps
    if not args.auto_batch_size or not uniform or args.group_by_length or passes == 1 or fit.size < planned:
        return fit.size
    together = passes_together(passes, tokens, fit.taken, free)
    report.log(f"passes: {together} of a step's {passes} are taken together")
    return planned * together


def settle(args: TrainingArgs, measure: Callable[[int], int], recompute: Callable[[], None]) -> Fit:
    """The first way of a forward pass that `measure`, given samples per pass, finds to fit; it raises where not."""
    size, recomputing = args.per_device_train_batch_size, False
    while True:
        try:
            return Fit(size, measure(size), recomputing)
        except torch.OutOfMemoryError:
            smaller = args.auto_batch_size and size > 1
            if not smaller and (recomputing or args.gradient_checkpointing is not None):
                raise
        if smaller:
            size = (size + 1) // 2
        else:
            recompute()
            recomputing = True


def passes_together(passes: int, tokens: int, taken: int, free: int) -> int:
    """The largest divisor of `passes` that so many passes of `tokens` tokens and `taken` bytes may be joined by."""
    bound = min(ENOUGH_TOKENS // tokens, int(free * _SHARE_OF_FREE_MEMORY) // max(1, taken))
    return max(divisor for divisor in range(1, passes + 1) if passes % divisor == 0 and divisor <= max(1, bound))


def free_memory(setup: Setup) -> int:
    """Bytes of the GPU's memory that a pass may take, once the optimizer's state has its place."""
    optimizer = _ADAM_BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in setup.trained())
    return free_gpu_memory(setup.device) - optimizer


def _require(taken: int, free: int) -> int:
    if taken > free:
        raise torch.OutOfMemoryError(f"a pass takes {taken} bytes, and {free} are left beside the optimizer's state")
    return taken


def _bytes_of_one_pass(setup: Setup, samples: Sequence[Tokens]) -> int:
    """Peak memory of a pass over `samples` beyond what was held before it."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setup.device)
    held = torch.cuda.memory_allocated(setup.device)
    _one_pass(setup, samples)
    taken = torch.cuda.max_memory_allocated(setup.device) - held
    torch.cuda.empty_cache()
    return int(taken)


def _one_pass(setup: Setup, samples: Sequence[Tokens]) -> None:
    """Forward and backward over `samples`; random state and gradients are as before."""
    setup.model.train()
    try:
        with torch.random.fork_rng(devices=[setup.device] if setup.device.type == "cuda" else []):
            batch = setup.collate(samples)
            setup.loss(batch, max(1, batch.learned)).backward()
    finally:
        for parameter in setup.trained():
            parameter.grad = None
