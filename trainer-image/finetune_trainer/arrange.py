"""Rows' tokens → the samples that a model is trained on, by each strategy. Nothing is copied before it is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import overload

import numpy as np
import numpy.typing as npt

from finetune_api.data import PreProcessDataConfig
from finetune_trainer.packing import Blocks as Packing
from finetune_trainer.packing import pack
from finetune_trainer.tokenizer import TextTokenizer
from finetune_trainer.tokens import Flags, TokenRows, Tokens

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Totals:
    """What samples come to: how many, their tokens, and the positions of these that have a loss."""

    samples: int
    tokens: int
    learned: int


class Arranged(Sequence[Tokens]):
    """Samples by index, each put together from its rows when it is read."""

    def __len__(self) -> int:
        raise NotImplementedError

    def sample(self, index: int) -> Tokens:
        """The sample at `index`, from 0."""
        raise NotImplementedError

    def totals(self) -> Totals:
        """All samples, counted."""
        raise NotImplementedError

    def lengths(self) -> Indexes:
        """Tokens of each sample; none is read for that."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self.sample(each) for each in range(*index.indices(len(self)))]
        return self.sample(range(len(self))[index])

    def __iter__(self) -> Iterator[Tokens]:
        return map(self.sample, range(len(self)))


def lengths_of(samples: Sequence[Tokens]) -> array[int]:
    """Tokens of each of `samples`, 8 bytes a sample; they are read only where they are no arrangement."""
    if isinstance(samples, Arranged):
        return array("q", samples.lengths().astype(np.int64).tobytes())
    return array("q", (len(sample.ids) for sample in samples))


class Lines(Arranged):
    """Each of `chosen` rows is a sample, cut to `size` tokens."""

    def __init__(self, rows: TokenRows, chosen: Indexes, size: int) -> None:
        self._rows, self._chosen, self._size = rows, chosen, size

    def __len__(self) -> int:
        return len(self._chosen)

    def sample(self, index: int) -> Tokens:
        return self._rows.row(int(self._chosen[index]), self._size)

    def totals(self) -> Totals:
        return _whole_rows(self._rows, self._chosen, self._size, len(self))

    def lengths(self) -> Indexes:
        return np.minimum(self._rows.lengths[self._chosen], self._size)


class Packs(Arranged):
    """Each of `blocks` holds whole rows, cut to `size` tokens; no row's first token is learned from the row before."""

    def __init__(self, rows: TokenRows, blocks: Packing, size: int) -> None:
        self._rows, self._blocks, self._size = rows, blocks, size

    def __len__(self) -> int:
        return len(self._blocks)

    def sample(self, index: int) -> Tokens:
        parts = [self._rows.row(int(row), self._size) for row in self._blocks[index]]
        starts = np.cumsum([0, *(len(part.ids) for part in parts[:-1])])
        learn = np.concatenate([part.learn for part in parts])
        learn[starts] = False
        return Tokens(np.concatenate([part.ids for part in parts]), learn, tuple(starts.tolist()))

    def totals(self) -> Totals:
        return _whole_rows(self._rows, self._blocks.members, self._size, len(self))

    def lengths(self) -> Indexes:
        return self._blocks.sums(np.minimum(self._rows.lengths[self._blocks.members], self._size))


def _whole_rows(rows: TokenRows, chosen: Indexes, size: int, samples: int) -> Totals:
    """Totals of `samples` that hold the `chosen` rows, cut to `size` tokens: rows know how much of them is learned."""
    tokens = np.minimum(rows.lengths[chosen], size).sum()
    return Totals(samples, int(tokens), int(rows.learned[chosen].sum()))


class Stream:
    """`chosen` rows one after the other, with `joiner` between two; read by position, never held at once."""

    def __init__(self, rows: TokenRows, chosen: Indexes, joiner: Tokens) -> None:
        self._rows, self._chosen, self._joiner = rows, chosen, joiner
        self.starts = np.concatenate([[0], np.cumsum(rows.lengths[chosen] + len(joiner.ids))])
        self._whole = not joiner.ids and len(chosen) == len(rows)

    def __len__(self) -> int:
        return max(0, int(self.starts[-1]) - len(self._joiner.ids))

    def read(self, start: int, stop: int) -> Tokens:
        """The tokens at `start` up to `stop`."""
        if self._whole:
            return self._rows.read(start, stop)
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        parts = [part for row in self._chosen[first:last] for part in (self._rows.row(int(row)), self._joiner)]
        offset = start - int(self.starts[first])
        ids = np.concatenate([part.ids for part in parts])[offset : offset + stop - start]
        learn = np.concatenate([np.asarray(part.learn, np.bool_) for part in parts])[offset : offset + stop - start]
        return Tokens(ids, learn)


class Blocks(Arranged):
    """Runs of `size` tokens of `stream` that begin at `starts`; the first `context` tokens of each are not learned."""

    def __init__(self, stream: Stream, starts: Indexes, size: int, context: int = 0) -> None:
        self._stream, self._starts, self._size, self._context = stream, starts, size, context

    def __len__(self) -> int:
        return len(self._starts)

    def sample(self, index: int) -> Tokens:
        start = int(self._starts[index])
        found = self._stream.read(start, start + self._size)
        if not self._context:
            return found
        learn = np.array(found.learn)
        learn[: self._context] = False
        return Tokens(found.ids, learn)

    def totals(self) -> Totals:
        return Totals(len(self), len(self) * self._size, sum(item.learned() for item in self))

    def lengths(self) -> Indexes:
        return np.full(len(self), self._size)

    def teaching(self) -> Blocks:
        """Those of which a token is learned."""
        kept = np.fromiter((item.learned() > 0 for item in self), np.bool_, len(self))
        return Blocks(self._stream, self._starts[kept], self._size, self._context)

    def first(self, count: int | None) -> Blocks:
        """The first `count`."""
        return Blocks(self._stream, self._starts[:count], self._size, self._context)


def arrange(
    rows: TokenRows, config: PreProcessDataConfig, tokenizer: TextTokenizer, chosen: Indexes | None = None
) -> Arranged:
    """The samples that a model is trained on, of the rows `chosen` (all, where None), at most `max_samples`.

    Strategies are those of Olive's TextGenParams, and pack; `PreProcessDataConfig.strategy` says what each does.
    Samples of which no token is learned (a prompt as long as maxSeqLen) are left out in all.
    """
    chosen = np.arange(len(rows)) if chosen is None else chosen
    if config.joins:
        return _joined(Stream(rows, chosen, _joiner(config, tokenizer)), config)
    return _lines(rows, chosen, config)


def _lines(rows: TokenRows, chosen: Indexes, config: PreProcessDataConfig) -> Arranged:
    fitting = chosen[rows.learned[chosen] > 0]
    if config.strategy == "line-by-line-random":
        return Lines(rows, _drawn_rows(rows, fitting, config), config.max_seq_len)
    if config.drop_short_sequences:
        fitting = fitting[rows.lengths[fitting] >= config.max_seq_len]
    fitting = fitting[: config.max_samples]
    if config.strategy == "line-by-line":
        return Lines(rows, fitting, config.max_seq_len)
    lengths = np.minimum(rows.lengths[fitting], config.max_seq_len)
    blocks = pack(lengths, config.max_seq_len)
    return Packs(rows, replace(blocks, members=fitting[blocks.members]), config.max_seq_len)


def _drawn_rows(rows: TokenRows, chosen: Indexes, config: PreProcessDataConfig) -> Indexes:
    """Rows drawn with replacement; under drop_short_sequences again, where one is too short."""
    shortest = config.max_seq_len if config.drop_short_sequences else 0
    return chosen[_draw(rows.lengths[chosen] >= shortest, config)]


def _joined(stream: Stream, config: PreProcessDataConfig) -> Arranged:
    size = config.max_seq_len
    if config.strategy == "join-random":
        begins = stream.starts[:-1]
        return Blocks(stream, begins[_draw(begins + size <= len(stream), config)], size).teaching()
    step = config.stride if config.strategy == "join-sliding-window" and config.stride else size
    starts = np.arange(0, max(0, len(stream) - size + 1), step)
    return Blocks(stream, starts, size, size - step).teaching().first(config.max_samples)


def _draw(fits: Flags, config: PreProcessDataConfig) -> Indexes:
    """`max_samples` indexes of `fits`, each drawn up to `random_retries` times until it is True; fewer where not."""
    rng = Random(config.random_seed)  # noqa: S311  (samples, no secret)
    found = array("q")
    for _ in range(config.max_samples or 0 if len(fits) else 0):
        draws = (rng.randrange(len(fits)) for _ in range(config.random_retries))
        good = next((index for index in draws if fits[index]), None)
        if good is not None:
            found.append(good)
    return np.array(found, np.int64)


def _joiner(config: PreProcessDataConfig, tokenizer: TextTokenizer) -> Tokens:
    ids = tokenizer.encode(config.joiner).ids if config.joiner else []
    return Tokens(ids, [not config.completion_only_loss] * len(ids))
