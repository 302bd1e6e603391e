"""Samples of tokens → tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.data import Tokens

IGNORED = -100  # torch's cross entropy leaves out positions with this label


@dataclass(frozen=True)
class Collator:
    """Pads samples on the right: to `length` tokens where given, else to the longest of the batch."""

    pad_id: int
    length: int | None = None
    attention_mask: bool = True
    pin_memory: bool = False

    def __call__(self, samples: Sequence[Tokens]) -> Batch:
        """`samples` as one batch, on the CPU.

        Padding is known by its position, never by its id, which may be the end-of-sequence token's. Where nothing
        is padded there is no mask: without one the model need not look whether it is all ones, which on a GPU
        would wait for all work before it.
        """
        longest = max(len(sample.ids) for sample in samples)
        width = max(self.length or 0, longest)
        shape = (len(samples), width)
        ids = torch.full(shape, self.pad_id)
        labels = torch.full(shape, IGNORED)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, sample in enumerate(samples):
            size = len(sample.ids)
            ids[row, :size] = torch.tensor(sample.ids)
            labels[row, :size] = torch.where(torch.tensor(sample.learn), ids[row, :size], IGNORED)
            mask[row, :size] = 1
        padded = any(len(sample.ids) < width for sample in samples)
        return Batch(
            input_ids=self._placed(ids),
            labels=self._placed(labels),
            attention_mask=self._placed(mask) if padded and self.attention_mask else None,
            tokens=sum(len(sample.ids) for sample in samples),
            learned=sum(learned_tokens(sample) for sample in samples),
        )

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self.pin_memory else tensor


@dataclass(frozen=True)
class Batch:
    """Samples of one forward pass: `input_ids`, `labels` and `attention_mask` are [samples, width] of int64.

    `tokens` counts those that are no padding, `learned` the positions that the loss is over; both are known on
    the CPU, so that no step has to ask the device.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None
    tokens: int
    learned: int

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """The model's keyword arguments, on `device`."""
        tensors = {"input_ids": self.input_ids, "labels": self.labels, "attention_mask": self.attention_mask}
        return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items() if tensor is not None}


def learned_tokens(sample: Tokens) -> int:
    """How many positions of `sample` have a loss: the learned tokens but for the first, which nothing predicts."""
    return sum(sample.learn[1:])
