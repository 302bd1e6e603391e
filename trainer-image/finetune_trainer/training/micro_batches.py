"""Forward passes as large as the GPU has use and memory for, within the same optimizer step.

Every learned token of a step weighs the same, so a step's forward passes over equally long samples may be taken
together: the gradient is the same sum, and a GPU that is given 2,048 tokens at a time idles half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune_api.training import TrainingArgs
from finetune_trainer.data import Tokens
from finetune_trainer.report import Reporter
from finetune_trainer.training.loop import Setup

# More tokens in a forward pass were measured to gain less than half a point of the GPU's limit.
ENOUGH_TOKENS = 16_384
# What one pass took is extrapolated; the rest is room for the allocator's fragments.
_SHARE_OF_FREE_MEMORY = 0.8
_ADAM_BYTES_PER_PARAMETER = 8


def fitted(setup: Setup, samples: Sequence[Tokens], args: TrainingArgs, report: Reporter) -> TrainingArgs:
    """`args` with fewer, larger forward passes per step, the step's samples unchanged; `args` itself on a CPU.

    Measures the memory of one forward and backward pass as `args` says it, and logs it.
    """
    lengths = {max(setup.collate.length or 0, len(sample.ids)) for sample in samples}
    joinable = len(lengths) == 1 and not args.group_by_length and args.gradient_accumulation_steps > 1
    if setup.device.type != "cuda" or not joinable:
        return args
    taken = _bytes_of_one_pass(setup, samples[: args.per_device_train_batch_size])
    optimizer = _ADAM_BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in setup.trained())
    free = torch.cuda.mem_get_info(setup.device)[0] - optimizer
    tokens = args.per_device_train_batch_size * lengths.pop()
    together = passes_together(args.gradient_accumulation_steps, tokens, taken, int(free))
    report.log(
        f"a forward and backward pass over {tokens} tokens takes {taken / 2**30:.1f} GiB of {free / 2**30:.1f} GiB "
        f"free: {together} of a step's {args.gradient_accumulation_steps} passes are taken together"
    )
    return args.model_copy(
        update={
            "per_device_train_batch_size": args.per_device_train_batch_size * together,
            "gradient_accumulation_steps": args.gradient_accumulation_steps // together,
        }
    )


def passes_together(passes: int, tokens: int, taken: int, free: int) -> int:
    """The largest divisor of `passes` that so many passes of `tokens` tokens and `taken` bytes may be joined by."""
    bound = min(ENOUGH_TOKENS // tokens, int(free * _SHARE_OF_FREE_MEMORY) // max(1, taken))
    return max(divisor for divisor in range(1, passes + 1) if passes % divisor == 0 and divisor <= max(1, bound))


def _bytes_of_one_pass(setup: Setup, samples: Sequence[Tokens]) -> int:
    """Peak memory of a pass over `samples` beyond what was held before it; random state and gradients are as before."""
    torch.cuda.reset_peak_memory_stats(setup.device)
    held = torch.cuda.memory_allocated(setup.device)
    setup.model.train()
    with torch.random.fork_rng(devices=[setup.device]):
        batch = setup.collate(samples)
        setup.loss(batch, max(1, batch.learned)).backward()
    for parameter in setup.trained():
        parameter.grad = None
    taken = torch.cuda.max_memory_allocated(setup.device) - held
    torch.cuda.empty_cache()
    return taken
