"""Loss on samples that are not learned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from finetune_trainer.data import Tokens
from finetune_trainer.training.setup import Setup


@torch.no_grad()
def evaluate(
    setup: Setup, samples: Sequence[Tokens], batch_size: int, wanted: Callable[[], bool] = lambda: True
) -> float | None:
    """Mean loss over the learned tokens of `samples`, in nats; dropout is off meanwhile.

    Each rank measures its share, all in the same number of batches. `wanted` is asked before each; where it says
    no, there is no result.
    """
    world = setup.world
    share = samples[world.rank :: world.size]
    setup.model.eval()
    total = torch.zeros((), device=setup.device, dtype=torch.float64)
    learned = 0
    try:
        for number in range(math.ceil(len(samples) / world.size / batch_size)):
            if not wanted():
                return None
            part = share[number * batch_size : (number + 1) * batch_size]
            if part:
                batch = setup.collate(part)
                total += setup.loss(batch, 1)
                learned += batch.learned
    finally:
        setup.model.train()
    return world.sum(total).item() / max(1, setup.over_ranks(learned))
