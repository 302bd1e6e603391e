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

    With `side_by_side`, the length of the longest sample there is, nothing is padded: all samples lie in one
    row, for an attention that is told where each begins (`varlen`).
    """

    pad_id: int
    length: int | None = None
    side: Literal["right", "left"] = "right"
    attention_mask: bool = True
    packed: bool = False
    pin_memory: bool = False
    side_by_side: int | None = None

    def __call__(self, samples: Sequence[Tokens]) -> Batch:
        """`samples` as one batch, on the CPU.

        Padding is known by its position, never by its id, which may be the end-of-sequence token's. Where nothing
        is padded there is no mask: without one the model need not look whether it is all ones, which on a GPU
        would wait for all work before it.
        """
        if self.side_by_side is not None:
            return self._joined(samples, self.side_by_side)
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

    def tokens(self, samples: Sequence[Tokens]) -> int:
        """How many tokens a forward pass over `samples` computes, padding included."""
        lengths = [len(sample.ids) for sample in samples]
        return sum(lengths) if self.side_by_side is not None else len(lengths) * max(self.length or 0, *lengths)

    def _joined(self, samples: Sequence[Tokens], longest: int) -> Batch:
        """`samples` in one row. Nothing predicts the first token of any of them."""
        ids = torch.cat([torch.tensor(sample.ids, dtype=torch.long) for sample in samples])
        learn = torch.cat([torch.tensor(sample.learn, dtype=torch.bool) for sample in samples])
        starts = _starts(samples)
        lengths = torch.tensor([*starts[1:], len(ids)]) - torch.tensor(starts)
        learn[starts] = False
        positions = torch.arange(len(ids)) - torch.repeat_interleave(torch.tensor(starts), lengths)
        return Batch(
            input_ids=self._placed(ids[None]),
            labels=self._placed(torch.where(learn, ids, IGNORED)[None]),
            attention_mask=None,
            position_ids=self._placed(positions[None]),
            tokens=len(ids),
            learned=sum(learned_tokens(sample) for sample in samples),
            bounds=self._placed(torch.tensor([*starts, len(ids)], dtype=torch.int32)),
            longest=longest,
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


def _starts(samples: Sequence[Tokens]) -> list[int]:
    """Where each part begins in the row of all `samples`; a sample without parts is one."""
    starts, place = [], 0
    for sample in samples:
        starts += [place + start for start in sample.starts or (0,)]
        place += len(sample.ids)
    return starts


@dataclass(frozen=True)
class Batch:
    """Samples of one forward pass: `input_ids`, `labels`, `attention_mask` and `position_ids` are [samples, width] of
    int64.

    `tokens` counts those that are no padding, `learned` the positions that the loss is over; both are known on
    the CPU, so that no step has to ask the device. Samples side by side are [1, tokens]; `bounds` are then where each
    part begins, and the end, [parts + 1] of int32, and `longest` is at least the tokens that a part of any batch has.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None
    tokens: int
    learned: int
    position_ids: torch.Tensor | None = None
    bounds: torch.Tensor | None = None
    longest: int | None = None

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """The model's keyword arguments, on `device`."""
        tensors = {
            "input_ids": self.input_ids,
            "labels": self.labels,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "cu_seq_lens_q": self.bounds,
        }
        placed = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items() if tensor is not None}
        return placed | ({} if self.longest is None else {"max_length_q": self.longest})


def learned_tokens(sample: Tokens) -> int:
    """How many positions of `sample` have a loss: the learned tokens but for the first, which nothing predicts."""
    return sample.learned()
