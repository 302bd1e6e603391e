"""A loaded model as metrics use it, whichever library runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_api.lora import QLoraConfig
from finetune_trainer.context import StageContext
from finetune_trainer.generation import Generator, Timing
from finetune_trainer.tokenizer import TextTokenizer, load_tokenizer


class Measurable(Generator, Protocol):
    """A loaded model that answers, scores and can be timed. `context_length` is None where there is no bound."""

    context_length: int | None

    def losses(self, ids: Sequence[int]) -> list[float]:
        """−ln p of each of ids[1:], in nats."""

    def time_request(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """Answers prompts of equal length together, each with exactly so many tokens, end tokens ignored."""


@dataclass(frozen=True)
class Subject:
    """What is measured: the model, its tokenizer, and the folders that its files are in."""

    role: str
    model: Measurable
    tokenizer: TextTokenizer
    folders: tuple[Path, ...]


def load_subject(context: StageContext) -> Subject:
    """The model that the stage's inputs make: onnx, model, adapter on its base, or the base alone.

    onnx is run by onnxruntime-genai and imports no torch, the others by transformers. An adapter of QLoRA is measured
    on the base quantized as it was in training.
    """
    role = next((role for role in ("onnx", "model", "adapter") if role in context.inputs), "base")
    folder = context.inputs[role] if role in ("onnx", "model") else context.input_model()[0]
    tokenizer = load_tokenizer(folder)
    if role == "onnx":
        return Subject(role, load_onnx(folder), tokenizer, (folder,))
    from finetune_trainer.generation_hf import load_hf_generator  # noqa: PLC0415  (onnx needs no torch)

    adapter = context.inputs.get("adapter") if role == "adapter" else None
    trained = context.upstream.get("adapter")
    quantized = QLoraConfig.model_validate(trained.config) if trained and trained.type == "QLoRA" else None
    model = load_hf_generator(folder, context.load_kwargs, adapter, quantized)
    return Subject(role, model, tokenizer, (folder, adapter) if adapter else (folder,))


def load_onnx(folder: Path) -> Measurable:
    """The model in onnxruntime-genai's layout in `folder`."""
    from finetune_trainer.genai import GenaiModel, runnable  # noqa: PLC0415  (transformers' way needs no onnxruntime)

    return GenaiModel(runnable(folder))
