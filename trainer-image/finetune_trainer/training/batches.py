"""Samples of tokens → tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from finetune_trainer.data import Tokens

IGNORED = -100  # torch's cross entropy leaves out positions with this label


@dataclass(frozen=True)
class Collator:
    """Pads samples: to `length` tokens where given, else to the longest of the batch.

    With `packed`, and wherever a sample has parts, these are told apart by positions that begin at 0 in each, padding
    included: transformers lets no token attend beyond its part then, so that no mask over padding is needed either.
    """

    pad_id: int
    length: int | None = None
    side: Literal["right", "left"] = "right"
    attention_mask: bool = True
    packed: bool = False
    pin_memory: bool = False

    def __call__(self, samples: Sequence[Tokens]) -> Batch:
        """`samples` as one batch, on the CPU.

        Padding is known by its position, never by its id, which may be the end-of-sequence token's. Where nothing
        is padded there is no mask: without one the model need not look whether it is all ones, which on a GPU
        would wait for all work before it.
        """
        packed = self.packed or any(sample.starts for sample in samples)
        width = max(self.length or 0, *(len(sample.ids) for sample in samples))
        shape = (len(samples), width)
        ids = torch.full(shape, self.pad_id)
        labels = torch.full(shape, IGNORED)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, sample in enumerate(samples):
            size = len(sample.ids)
            place = slice(0, size) if self.side == "right" or packed else slice(width - size, width)
            ids[row, place] = torch.tensor(sample.ids)
            labels[row, place] = torch.where(torch.tensor(sample.learn), ids[row, place], IGNORED)
            mask[row, place] = 1
        padded = any(len(sample.ids) < width for sample in samples)
        masked = padded and self.attention_mask and not packed
        return Batch(
            input_ids=self._placed(ids),
            labels=self._placed(labels),
            attention_mask=self._placed(mask) if masked else None,
            position_ids=self._placed(_positions(samples, width)) if packed else None,
            tokens=sum(len(sample.ids) for sample in samples),
            learned=sum(learned_tokens(sample) for sample in samples),
        )

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self.pin_memory else tensor


def _positions(samples: Sequence[Tokens], width: int) -> torch.Tensor:
    """[samples, width]: each token's place in its part; padding is a part of its own."""
    positions = torch.arange(width).repeat(len(samples), 1)
    for row, sample in enumerate(samples):
        for start in (*sample.starts, len(sample.ids)):
            positions[row, start:] = torch.arange(width - start)
    return positions


@dataclass(frozen=True)
class Batch:
    """Samples of one forward pass: `input_ids`, `labels`, `attention_mask` and `position_ids` are [samples, width] of
    int64.

    `tokens` counts those that are no padding, `learned` the positions that the loss is over; both are known on
    the CPU, so that no step has to ask the device.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None
    tokens: int
    learned: int
    position_ids: torch.Tensor | None = None

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """The model's keyword arguments, on `device`."""
        tensors = {
            "input_ids": self.input_ids,
            "labels": self.labels,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }
        return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items() if tensor is not None}


def learned_tokens(sample: Tokens) -> int:
    """How many positions of `sample` have a loss: the learned tokens but for the first, which nothing predicts."""
    return sample.learned()
