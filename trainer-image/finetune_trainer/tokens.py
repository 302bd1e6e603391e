"""Tokens, kept in files: two bytes a token (four in large vocabularies) and a bit for whether it is learned.

The files of a folder are arrays in numpy's own format, which any tool reads, and `tokens.json`:

- `ids.npy` [tokens], uint16 or uint32; `learn.npy` [tokens / 8], a bit for each, the lowest first;
- `lengths.npy`, `learned.npy` [rows], uint32: tokens of a row, and how many of its first maxSeqLen have a loss;
- `hashes.npy` [rows], uint64: so many bits of the digest of its text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", bound=np.generic)
Ids = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
ABOUT = "tokens.json"
_COPIED_AT_ONCE = 1 << 20


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
    """The array in a file of numpy's, of which slices are read when they are asked for: a map's would stay in memory.

    Raises ValueError where the file is none.
    """

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self._kind, self._offset, self._length = mapped.dtype, mapped.offset, len(mapped)
        self._file = path.open("rb")

    def __len__(self) -> int:
        return int(self._length)

    def __getitem__(self, part: slice) -> npt.NDArray[Number]:
        size = self._kind.itemsize
        body = os.pread(self._file.fileno(), max(0, part.stop - part.start) * size, self._offset + part.start * size)
        return np.frombuffer(body, self._kind)


@dataclass(frozen=True)
class TokenRows:
    """The tokens of many rows, one after the other, in the files of `folder`.

    `bounds` [rows + 1] says where each row begins, `learned` [rows] how many of its first maxSeqLen positions have a
    loss; `hashes` [rows] is 64 bits of its text's digest.
    """

    folder: Path
    ids: FileArray[np.unsignedinteger[Any]]
    learn: FileArray[np.uint8]
    bounds: npt.NDArray[np.int64]
    learned: npt.NDArray[np.uint32]
    hashes: npt.NDArray[np.uint64]
    highest_id: int

    @classmethod
    def of(cls, folder: Path) -> TokenRows:
        """The rows in `folder`, of which the numbers of each row are mapped. Raises OSError, KeyError or ValueError."""
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        lengths, learned, hashes = (_mapped(folder / f"{name}.npy") for name in ("lengths", "learned", "hashes"))
        bounds = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        ids: FileArray[np.unsignedinteger[Any]] = FileArray(folder / "ids.npy")
        learn: FileArray[np.uint8] = FileArray(folder / "learn.npy")
        if len(ids) != bounds[-1] or len(learn) != -(-len(ids) // 8) or not len(lengths) == len(learned) == len(hashes):
            raise ValueError(f"the files in {folder} are not of the same rows")
        return cls(folder, ids, learn, bounds, learned, hashes, about["highestId"])

    def __reduce__(self) -> tuple[Any, ...]:
        """By the folder: the other processes of the node read the same files."""
        return TokenRows.of, (self.folder,)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.bounds)

    def read(self, start: int, stop: int) -> Tokens:
        """The tokens at `start` up to `stop`, whichever rows they belong to."""
        first = start // 8
        bits = np.unpackbits(self.learn[first : -(-stop // 8)], bitorder="little")
        return Tokens(self.ids[start:stop].astype(np.int32), bits[start - 8 * first : stop - 8 * first].view(np.bool_))

    def row(self, index: int, limit: int | None = None) -> Tokens:
        """One row's tokens, the first `limit` of them."""
        start, stop = int(self.bounds[index]), int(self.bounds[index + 1])
        return self.read(start, stop if limit is None else min(stop, start + limit))


class TokenWriter:
    """Writes the files of `folder`, one batch of rows after another; they are whole when it is left."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files = ExitStack()
        self._ids = self._array("ids", np.uint16)
        self._learn = self._array("learn", np.uint8)
        self._lengths, self._learned = self._array("lengths", np.uint32), self._array("learned", np.uint32)
        self._hashes = self._array("hashes", np.uint64)
        self._flags = np.zeros(0, np.bool_)
        self._highest = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._learn.append(np.packbits(self._flags, bitorder="little"))
        self._files.close()
        if error is None:
            body = json.dumps({"version": 1, "highestId": self._highest})
            (self._folder / ABOUT).write_text(body, encoding="utf-8")

    def add(
        self, ids: Ids, learn: Flags, lengths: Sequence[int], learned: Sequence[int], hashes: Sequence[int]
    ) -> None:
        """Rows of `lengths` tokens, together `ids` and `learn` [their sum], and what else is known of each."""
        self._highest = max(self._highest, int(ids.max(initial=0)))
        if self._highest > self._ids.largest:
            self._ids = self._widened()
        self._ids.append(ids)
        flags = np.concatenate([self._flags, learn])
        whole = len(flags) // 8 * 8
        self._learn.append(np.packbits(flags[:whole], bitorder="little"))
        self._flags = flags[whole:]
        self._lengths.append(lengths)
        self._learned.append(learned)
        self._hashes.append(np.array(hashes, np.uint64))

    def _array(self, name: str, kind: npt.DTypeLike) -> _Growing:
        return self._files.enter_context(_Growing(self._folder / f"{name}.npy", kind))

    def _widened(self) -> _Growing:
        """The ids so far, in four bytes: a vocabulary that needs them shows among its first rows."""
        narrow = self._folder / "narrow.npy"
        self._ids.close()
        (self._folder / "ids.npy").rename(narrow)
        wide, written = self._array("ids", np.uint32), _mapped(narrow)
        for start in range(0, len(written), _COPIED_AT_ONCE):
            wide.append(written[start : start + _COPIED_AT_ONCE])
        narrow.unlink()
        return wide


class _Growing:
    """An array of numbers that grows at its end, in a file of numpy's."""

    def __init__(self, path: Path, kind: npt.DTypeLike) -> None:
        self._kind = np.dtype(kind)
        self._length = 0
        self._file = path.open("w+b")
        self._write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def largest(self) -> int:
        """The largest number that it can hold."""
        return int(np.iinfo(self._kind).max)

    def append(self, values: npt.ArrayLike) -> None:
        """`values`, at the end. Raises OverflowError where one does not fit."""
        numbers = np.asarray(values)
        if len(numbers) and int(numbers.max()) > self.largest:
            raise OverflowError(f"{numbers.max()} does not fit into {self._kind}")
        self._file.write(numbers.astype(self._kind).data)
        self._length += len(numbers)

    def close(self) -> None:
        """Writes how long it has become; numpy leaves room for that in a header."""
        if not self._file.closed:
            self._file.seek(0)
            self._write_header()
            self._file.close()

    def _write_header(self) -> None:
        described = {"descr": self._kind.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, described)


def _mapped(path: Path) -> npt.NDArray[Any]:
    """The array in a file of numpy's, its pages read when they are needed."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
