"""NEFTune: noise on the embeddings while training (Jain et al. 2023, arXiv:2310.05914)."""

from __future__ import annotations

import math
from typing import Any

import torch


def add_noise(embeddings: torch.nn.Module, alpha: float) -> None:
    """Has `embeddings`, whose output is [samples, width, hidden], add uniform noise to it while it is in training.

    The noise's bound is alpha / √(width · hidden), as in the paper; it comes from torch's generator of the device.
    """

    def noisy(module: torch.nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        bound = alpha / math.sqrt(output.shape[1] * output.shape[2])
        return output + torch.empty_like(output).uniform_(-bound, bound)

    embeddings.register_forward_hook(noisy)
