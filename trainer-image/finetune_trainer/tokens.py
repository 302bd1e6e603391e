"""Tokens, kept in files: four bytes a token and one for whether it is learned, whatever their number."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", bound=np.generic)
Ids = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]


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


def _opened_array(path: str, kind: str) -> FileArray[Any]:
    return FileArray(Path(path).open("rb"), kind)
