"""Packed samples: what the model makes of each is what it makes of it alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config

from finetune_trainer.training.batches import Collator
from finetune_trainer.training.loop import Setup

from .alone import samples_of, texts, total_loss
from .shapes import SHAPE

CONFIGS = {
    "phi3": Phi3Config(**SHAPE, sliding_window=None),
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=8),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_packed_samples_have_the_loss_of_each_alone(architecture: str, attention: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture], attn_implementation=attention)

    def losses(strategy: str, *, parts: bool = True, **collating: Any) -> tuple[float, int, dict[str, torch.Tensor]]:
        samples = [item if parts else replace(item, starts=()) for item in samples_of(strategy)]
        setup = Setup(model, torch.device("cpu"), None, Collator(0, **collating))
        return total_loss(setup, samples, 4 if strategy == "pack" else 1)

    alone, learned, gradients = losses("line-by-line")
    for length in (None, 40):
        packed, packed_learned, packed_gradients = losses("pack", packed=True, length=length)
        assert packed_learned == learned == sum(len(text) + 1 for text in texts())
        assert packed == pytest.approx(alone, rel=1e-5)
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, packed_gradients[name], atol=1e-4), name
    without_parts, *_ = losses("pack", parts=False)
    assert without_parts != pytest.approx(alone, rel=1e-3), "the test could tell"
