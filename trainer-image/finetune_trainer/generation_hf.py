"""Greedy generation by transformers, many prompts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from finetune_api.model import LoadKwargs
from finetune_trainer.generation import Limits
from finetune_trainer.models import best_device, load_with_adapter

# Bounds the cache of keys and values: prompts of one forward pass × (longest prompt + answer).
_CACHED_TOKENS = 16_384
_PROMPTS_AT_ONCE = 64


class HfGenerator:
    """Continues prompts with a causal language model of transformers (or peft) on `device`."""

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self._model = model.eval()
        self._device = device
        self._context = getattr(model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], limits: Limits) -> Iterator[tuple[int, list[int]]]:
        """As `generation.Generator`; prompts of like length are taken together, the longest first."""
        rooms = [limits.room(prompt, self._context) for prompt in prompts]
        yield from ((index, []) for index, room in enumerate(rooms) if room == 0)
        order = sorted((index for index, room in enumerate(rooms) if room), key=lambda index: -len(prompts[index]))
        while order:
            width = len(prompts[order[0]]) + limits.tokens
            size = min(_PROMPTS_AT_ONCE, max(1, _CACHED_TOKENS // width))
            batch, order = order[:size], order[size:]
            answers = self._answers([prompts[index] for index in batch], [rooms[index] for index in batch], limits)
            yield from zip(batch, answers, strict=True)

    def _answers(self, prompts: list[Sequence[int]], rooms: list[int], limits: Limits) -> list[list[int]]:
        """Answers to prompts padded on the left, so that all end, and go on, at the same place."""
        padding = [max(map(len, prompts)) - len(prompt) for prompt in prompts]
        rows = zip(padding, prompts, strict=True)
        ids = torch.tensor([[0] * pad + list(prompt) for pad, prompt in rows], device=self._device)
        mask = torch.ones_like(ids)
        for row, pad in enumerate(padding):
            mask[row, :pad] = 0
        answers: list[list[int]] = [[] for _ in prompts]
        running = set(range(len(prompts)))
        cache = None
        while running:
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            best = output.logits[:, -1].argmax(-1)
            for row, token in enumerate(best.tolist()):
                if row in running and limits.completes(answers[row], token, rooms[row]):
                    running.discard(row)
            ids = best[:, None]
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=-1)
        return answers


def load_hf_generator(folder: Path, load: LoadKwargs, adapter: Path | None) -> HfGenerator:
    """The model in `folder`, loaded as `load` says, with the adapter in `adapter` beside it if given."""
    device = best_device()
    return HfGenerator(load_with_adapter(folder, load, adapter, device), device)
