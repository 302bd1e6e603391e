"""What samples come to one by one, for tests of those that share a row or a block with others."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from finetune_api.data import PreProcessDataConfig
from finetune_trainer.data import Sample, Tokens, arrange, tokenize
from finetune_trainer.training.setup import Setup

from ..letters import Letters


def texts() -> list[str]:
    """Twelve texts of 2 to 19 letters of a vocabulary of 128."""
    rng = random.Random(1)
    return ["".join(chr(rng.randrange(3, 128)) for _ in range(rng.randrange(2, 20))) for _ in range(12)]


def samples_of(strategy: str) -> list[Tokens]:
    """The texts as samples, in blocks of 32 tokens where they share them."""
    process = PreProcessDataConfig(strategy=strategy, max_seq_len=32)
    rows = tokenize([Sample(text, 0) for text in texts()], Letters(), process)
    return list(arrange(rows, process, Letters()))


def total_loss(setup: Setup, samples: Sequence[Tokens], together: int) -> tuple[float, int, dict[str, torch.Tensor]]:
    """The loss of `samples`, `together` of them in each pass: summed, over how many tokens, and its gradients."""
    total, learned = 0.0, 0
    setup.model.zero_grad()
    for start in range(0, len(samples), together):
        batch = setup.collate(samples[start : start + together])
        loss = setup.loss(batch, 1)
        loss.backward()
        total += loss.item()
        learned += batch.learned
    return total, learned, {name: value.grad.clone() for name, value in setup.model.named_parameters()}
