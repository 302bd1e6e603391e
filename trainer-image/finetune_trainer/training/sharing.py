"""How a step's samples are shared out among ranks: all of them, none twice, and as many to each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

from finetune_trainer.data import Tokens


def share(batches: Sequence[tuple[int, ...]], rank: int, size: int, filler: int) -> tuple[tuple[int, ...], ...]:
    """The micro-batches of one rank, of a step's `batches` over all `size` of them.

    Rank r takes every `size`-th batch from the r-th on. Where the last round is short, `filler` fills it up: ranks
    whose models are sharded must do as many forward passes, over as many samples.
    """
    own: list[tuple[int, ...]] = []
    for start in range(0, len(batches), size):
        dealt = batches[start : start + size]
        batch = dealt[rank] if rank < len(dealt) else ()
        own.append(batch + (filler,) * (max(map(len, dealt)) - len(batch)))
    return tuple(own)


class Filled(Sequence[Tokens]):
    """Samples and, at the index after the last, a filler: a sample of which nothing is learned."""

    def __init__(self, samples: Sequence[Tokens]) -> None:
        self._samples = samples
        self._filler = replace(samples[0], learn=[False] * len(samples[0].ids)) if samples else None

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Tokens]:
        return iter(self._samples)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Tokens]: ...

    def __getitem__(self, index: int | slice) -> Tokens | Sequence[Tokens]:
        if index == len(self._samples) and self._filler is not None:
            return self._filler
        return self._samples[index]
