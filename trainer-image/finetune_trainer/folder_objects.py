"""A local folder in the place of object storage: for artifacts that were downloaded, and for tests."""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from finetune_trainer.objects import CHUNK, HashingReader, MissingObjectError, Moved, ObjectInfo, Transferred, hash_file


class FolderObjects:
    """Objects whose keys are paths below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def info(self, key: str) -> ObjectInfo | None:
        """The file, or None where it is not there; its tag is its time of change."""
        path = self._root / key
        if not path.is_file():
            return None
        status = path.stat()
        return ObjectInfo(key, status.st_size, str(status.st_mtime_ns), status.st_mtime)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All files whose path starts with `prefix`, by path."""
        start = self._root / prefix.rpartition("/")[0]
        keys = sorted(path.relative_to(self._root).as_posix() for path in start.rglob("*") if path.is_file())
        found = (self.info(key) for key in keys if key.startswith(prefix))
        return [item for item in found if item]

    def folders(self, prefix: str) -> builtins.list[str]:
        """The names of the folders in the folder `prefix` that have a file somewhere below them, in order."""
        start = self._root / prefix
        inner = (path.relative_to(start).parts for path in start.rglob("*") if path.is_file())
        return sorted({parts[0] for parts in inner if len(parts) > 1})

    def read(self, key: str) -> bytes | None:
        """A file's content, or None where it is not there."""
        path = self._root / key
        return path.read_bytes() if path.is_file() else None

    def write(self, key: str, body: bytes, *, only_new: bool = False) -> None:
        """Writes a file, whole or not at all."""
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name(f".{path.name}.{uuid4().hex}")
        whole.write_bytes(body)
        if not only_new:
            whole.replace(path)
            return
        with suppress(FileExistsError):
            os.link(whole, path)
        whole.unlink()

    def upload(self, files: Mapping[str, Path], moved: Moved | None = None) -> dict[str, Transferred]:
        """Copies each file to its key."""
        del moved
        return {key: _copy(path, self._root / key) for key, path in files.items()}

    def recognise(self, there: ObjectInfo, path: Path) -> Transferred | None:
        """The file's size and sha256, where the file at the key has the same."""
        found = hash_file(path)
        return found if hash_file(self._root / there.key) == found else None

    def download(self, files: Mapping[str, Path], moved: Moved | None = None) -> dict[str, Transferred]:
        """Copies each key to its file. Raises MissingObjectError."""
        del moved
        self._require(files)
        return {key: _copy(self._root / key, path) for key, path in files.items()}

    def hashes(self, keys: Sequence[str], moved: Moved | None = None) -> dict[str, Transferred]:
        """Size and sha256 of each file. Raises MissingObjectError."""
        del moved
        self._require(keys)
        return {key: hash_file(self._root / key) for key in keys}

    def _require(self, keys: Iterable[str]) -> None:
        for key in keys:
            if not (self._root / key).is_file():
                raise MissingObjectError(key)

    def delete(self, keys: Sequence[str]) -> None:
        """Takes files away."""
        for key in keys:
            (self._root / key).unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> Transferred:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file, target.open("wb") as copy:
        return _pump(HashingReader(file), copy)


def _pump(reader: HashingReader, target: BinaryIO) -> Transferred:
    while content := reader.read(CHUNK):
        target.write(content)
    return reader.transferred()
