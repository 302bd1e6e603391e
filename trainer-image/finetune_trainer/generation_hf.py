"""Greedy generation by transformers, many prompts at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from finetune_api.lora import QLoraConfig
from finetune_api.model import LoadKwargs
from finetune_trainer.generation import Limits, Timing
from finetune_trainer.models import best_device, dtype_named, load_model, load_with_adapter

# Bounds the cache of keys and values: prompts of one forward pass × (longest prompt + answer).
_CACHED_TOKENS = 16_384
_PROMPTS_AT_ONCE = 64


class HfGenerator:
    """Continues prompts with a causal language model of transformers (or peft) on `device`."""

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self._model = model.eval()
        self._device = device
        self.context_length = getattr(model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], limits: Limits) -> Iterator[tuple[int, list[int]]]:
        """As `generation.Generator`; prompts of like length are taken together, the longest first."""
        rooms = [limits.room(prompt, self.context_length) for prompt in prompts]
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

    @torch.inference_mode()
    def losses(self, ids: Sequence[int]) -> list[float]:
        """−ln p of each of ids[1:], in nats."""
        tensor = torch.tensor([list(ids)], device=self._device)
        logits = self._model(input_ids=tensor, use_cache=False).logits[0, :-1].float()
        return torch.nn.functional.cross_entropy(logits, tensor[0, 1:], reduction="none").tolist()

    @torch.inference_mode()
    def time_request(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """As `evaluation.model.Measurable`. Reading a token waits for the device."""
        started = time.perf_counter()
        ids = torch.tensor([list(prompt) for prompt in prompts], device=self._device)
        cache, first = None, 0.0
        for number in range(tokens):
            output = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, ids = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
            ids.tolist()
            if number == 0:
                first = time.perf_counter() - started
        return Timing(first, time.perf_counter() - started)


def load_hf_generator(
    folder: Path, load: LoadKwargs, adapter: Path | None, quantized: QLoraConfig | None = None
) -> HfGenerator:
    """The model in `folder`, loaded as `load` says, with the adapter in `adapter` beside it if given.

    `quantized` is the QLoRA that trained the adapter: the model is then held in the same 4 bits.
    """
    device = best_device()
    if quantized is None:
        return HfGenerator(load_with_adapter(folder, load, adapter, device), device)
    model = _load_quantized(folder, load, quantized, device)
    if adapter is None:
        return HfGenerator(model, device)
    from peft import PeftModel  # noqa: PLC0415  (seconds of imports that a model without adapter does without)

    return HfGenerator(PeftModel.from_pretrained(model, adapter), device)


def _load_quantized(folder: Path, load: LoadKwargs, config: QLoraConfig, device: torch.device) -> torch.nn.Module:
    from finetune_trainer import quantization  # noqa: PLC0415  (bitsandbytes, which others do without)

    weights = config.torch_dtype or load.torch_dtype or ("bfloat16" if device.type == "cuda" else "float32")
    compute = dtype_named(config.compute_dtype or weights)
    four_bit = quantization.four_bit(config, compute)
    model = load_model(folder, load, device=device, dtype=dtype_named(weights), quantization=four_bit)
    quantization.keep_trainable_on_cpu(model)
    return model
