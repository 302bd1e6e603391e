"""Texts → tokens, kept in files: four bytes a token and one for whether it is learned, whatever their number."""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from finetune_api.data import PreProcessDataConfig
from finetune_trainer.sample import Sample
from finetune_trainer.tokenizer import Encoding, TextTokenizer

Number = TypeVar("Number", bound=np.generic)
Ids = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
# Texts that are encoded together: so many, or so many characters, whichever is reached first.
_TEXTS_TOGETHER = 1024
_CHARACTERS_TOGETHER = 1 << 21
# A chat's own end token stands before at most so many tokens of white space.
_TAIL = 8


@dataclass(frozen=True)
class Tokens:
    """A sample of n tokens: `ids` and, for each, whether its prediction is learned; both of length n.

    `starts` are the positions at which the parts of a packed sample begin, the first at 0; none where it is one.
    """

    ids: Sequence[int] | Ids
    learn: Sequence[bool] | Flags
    starts: Sequence[int] = ()

    def learned(self) -> int:
        """How many positions have a loss: the learned tokens but for the first, which nothing predicts."""
        return int(np.count_nonzero(self.learn[1:]))


class FileArray(Generic[Number]):
    """A file of numbers, of which slices are read when they are asked for: mapped, they would all stay in memory."""

    def __init__(self, file: BinaryIO, kind: npt.DTypeLike) -> None:
        file.flush()
        self._file = file
        self._kind = np.dtype(kind)

    def __reduce__(self) -> tuple[Any, ...]:
        """By the file's path: the other processes of the node read the same file."""
        return _opened_array, (self._file.name, self._kind.str)

    def __getitem__(self, part: slice) -> npt.NDArray[Number]:
        size = self._kind.itemsize
        body = os.pread(self._file.fileno(), max(0, part.stop - part.start) * size, part.start * size)
        return np.frombuffer(body, self._kind)


@dataclass(frozen=True)
class TokenRows:
    """The tokens of many rows, one after the other.

    `ids` and `learn` [tokens] are in files; `bounds` [rows + 1] says where each row begins, `learned` [rows] how many
    of its first maxSeqLen positions have a loss; `hashes` [rows] is 64 bits of its text's digest.
    """

    ids: FileArray[np.int32]
    learn: FileArray[np.bool_]
    bounds: npt.NDArray[np.int64]
    learned: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    highest_id: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.bounds)

    def read(self, start: int, stop: int) -> Tokens:
        """The tokens at `start` up to `stop`, whichever rows they belong to."""
        return Tokens(self.ids[start:stop], self.learn[start:stop])

    def row(self, index: int, limit: int | None = None) -> Tokens:
        """One row's tokens, the first `limit` of them."""
        start, stop = int(self.bounds[index]), int(self.bounds[index + 1])
        return self.read(start, stop if limit is None else min(stop, start + limit))


def tokenize(
    samples: Iterable[Sample],
    tokenizer: TextTokenizer,
    config: PreProcessDataConfig,
    folder: Path | None = None,
) -> TokenRows:
    """Each sample's tokens, encoded as one text, so that no token is cut at the completion's beginning.

    With `completion_only_loss` a token is learned if any of its characters belongs to the completion. With
    `add_special_tokens` BOS (where the model has it) comes first and EOS last, each once, and EOS is learned.
    Nothing is cut here. `folder` takes the files, which are gone with the result; None is the temporary folder.
    """
    bounds, learned, hashes, highest = array("q", [0]), array("q"), array("Q"), 0
    ids, learn = _scratch_file(folder), _scratch_file(folder)
    for batch in _batches(samples):
        encodings = tokenizer.encode_all([item.text for item in batch], offsets=config.completion_only_loss)
        rows = [_tokens(*pair, tokenizer, config) for pair in zip(encodings, batch, strict=True)]
        for tokens in rows:
            bounds.append(bounds[-1] + len(tokens.ids))
            flags = bytes(tokens.learn)
            learn.write(flags)
            learned.append(flags[1 : config.max_seq_len].count(1))
        hashes.extend(text_hash(item.text) for item in batch)
        together = np.fromiter(chain.from_iterable(tokens.ids for tokens in rows), np.int32)
        highest = max(highest, int(together.max(initial=0)))
        ids.write(together.tobytes())
    return TokenRows(
        FileArray(ids, np.int32),
        FileArray(learn, np.bool_),
        np.array(bounds, np.int64),
        np.array(learned, np.int64),
        np.array(hashes, np.uint64),
        highest,
    )


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    characters = 0
    for sample in samples:
        batch.append(sample)
        characters += len(sample.text)
        if len(batch) == _TEXTS_TOGETHER or characters >= _CHARACTERS_TOGETHER:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _tokens(encoding: Encoding, sample: Sample, tokenizer: TextTokenizer, config: PreProcessDataConfig) -> Tokens:
    ids = list(encoding.ids)
    learn = _learned(encoding, sample) if config.completion_only_loss else [True] * len(ids)
    if not config.add_special_tokens:
        return Tokens(ids, learn)
    if tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        ids.insert(0, tokenizer.bos_id)
        learn.insert(0, not config.completion_only_loss)
    if tokenizer.eos_id is None or (sample.ends_itself and not tokenizer.end_ids.isdisjoint(ids[-_TAIL:])):
        return Tokens(ids, learn)
    if ids[-1:] != [tokenizer.eos_id]:
        ids.append(tokenizer.eos_id)
        learn.append(True)
    learn[-1] = True
    return Tokens(ids, learn)


def _learned(encoding: Encoding, sample: Sample) -> list[bool]:
    """For each token whether any of its characters is one that is learned."""
    learn = [False] * len(encoding.ids)
    for start, stop in sample.learned():
        last = stop == len(sample.text)
        for index, (first, end) in enumerate(encoding.offsets or ()):
            if (first >= start or end > start) and (last or first < stop):
                learn[index] = True
    return learn


def text_hash(text: str) -> int:
    """64 bits of the text's digest, by which equal texts are found without holding them."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _scratch_file(folder: Path | None) -> BinaryIO:
    """A file of `folder`, which other processes may open too; without one, a file that is gone with the result."""
    if folder is None:
        return tempfile.TemporaryFile()  # type: ignore[return-value]
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.NamedTemporaryFile(dir=folder, delete=False)  # type: ignore[return-value]


def _opened_array(path: str, kind: str) -> FileArray[Any]:
    return FileArray(Path(path).open("rb"), kind)
