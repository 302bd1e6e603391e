"""What the trainer asks of object storage, whatever is behind it."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

CHUNK = 1 << 20
# Told how many bytes have just gone over the wire, by any thread.
Moved = Callable[[int], None]


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing shows it. `tag` changes with the content: version id, ETag, or what stands for them.

    `changed` is when it was put, in seconds since 1970.
    """

    key: str
    size: int
    tag: str
    changed: float = 0.0


@dataclass(frozen=True)
class Transferred:
    """What went over the wire: size in bytes, and sha256 in hex."""

    size: int
    sha256: str


class MissingObjectError(Exception):
    """An object that was to be fetched is not there."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class Objects(Protocol):
    """Objects below one root. Keys are relative to it; every method raises StageFailure where the store fails."""

    def info(self, key: str) -> ObjectInfo | None:
        """The object, or None where it is not there."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects whose key starts with `prefix`, by key."""

    def folders(self, prefix: str) -> builtins.list[str]:
        """The names, in order, that keys have after `prefix` and before their next slash; `prefix` ends with one."""

    def read(self, key: str) -> bytes | None:
        """A small object's content, or None where it is not there."""

    def write(self, key: str, body: bytes, *, only_new: bool = False) -> None:
        """Puts a small object. `only_new`: leaves what is there alone, on servers that can."""

    def upload(self, files: Mapping[str, Path], moved: Moved | None = None) -> dict[str, Transferred]:
        """Sends each file to its key, and says by key what was sent. Memory does not grow with the files.

        What is large is looked at afterwards: whether the store shows of it what was sent.
        """

    def recognise(self, there: ObjectInfo, path: Path) -> Transferred | None:
        """The file's size and sha256, where the listed object has the same content by all that its tag says."""

    def download(self, files: Mapping[str, Path], moved: Moved | None = None) -> dict[str, Transferred]:
        """Fetches each key into its file, whose folder is made, and says by key what came.

        Raises MissingObjectError.
        """

    def hashes(self, keys: Sequence[str], moved: Moved | None = None) -> dict[str, Transferred]:
        """Reads each object to its end, keeps nothing, and says by key what came. Raises MissingObjectError."""

    def delete(self, keys: Sequence[str]) -> None:
        """Takes objects away, in this order; one that is not there is no error."""


class HashingReader:
    """A file that is read once from beginning to end, and hashed meanwhile."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size = 0

    def read(self, amount: int | None = None) -> bytes:
        """The next `amount` bytes, or all that are left."""
        content = self._file.read(-1 if amount is None else amount)
        self._sha256.update(content)
        self._size += len(content)
        return content

    def transferred(self) -> Transferred:
        """What was read so far."""
        return Transferred(self._size, self._sha256.hexdigest())


def hash_file(path: Path) -> Transferred:
    """Size and sha256 of a local file."""
    with path.open("rb") as file:
        reader = HashingReader(file)
        while reader.read(CHUNK):
            pass
    return reader.transferred()
