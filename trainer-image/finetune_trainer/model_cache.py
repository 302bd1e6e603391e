"""Input models that are kept on a volume between stages and jobs, by the digest that pins them.

The volume is one namespace's, and many pods may use it at once, on one node or on several. A model is a folder of its
own, which appears there whole, by one rename. Pods hold its lock, shared, for as long as they live; who fetches or
removes one holds it alone. Locks are flock's, which local disks and NFS 4 know, and which end with their process.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from finetune_trainer.objects import Transferred, hash_file
from finetune_trainer.report import Reporter

_CONTENT = "model"
_HASHES = "hashes.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# The group that the volume belongs to shares it, whatever user a pod runs as.
_FOLDER_MODE = 0o2775


class ModelCache:
    """Models below `root`, `limit` bytes of them at most. Not for several threads."""

    def __init__(self, root: Path, limit: int, report: Reporter) -> None:
        self._root, self._limit, self._report = root, limit, report
        self._held: list[int] = []

    def folder(self, digest: str, size: int, fetch: Callable[[Path], None]) -> Path | None:
        """The folder with the model of this digest, which `fetch` fills where it is not there yet.

        `size` is about what it takes, in bytes. None where it cannot be kept: it is larger than the limit, or the
        volume is full. What `fetch` raises is raised, and nothing stays of it.
        """
        if size > self._limit:
            self._report.log(f"the model is not kept: {size} bytes are more than the cache may hold ({self._limit})")
            return None
        self._root.mkdir(parents=True, exist_ok=True)
        place, lock = self._root / digest, self._lock(digest)
        try:
            found = self._shared(place, lock, size, fetch)
        except BaseException:
            os.close(lock)
            raise
        if found is None:
            os.close(lock)
        else:
            self._held.append(lock)
        return found

    def _shared(self, place: Path, lock: int, size: int, fetch: Callable[[Path], None]) -> Path | None:
        """The model's folder, its lock shared; None where it cannot be kept."""
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if self._is_whole(place):
                # What was used last is removed last.
                os.utime(place / _HASHES)
                return place / _CONTENT
            # On NFS two pods that both hold it shared would wait for each other for good.
            fcntl.flock(lock, fcntl.LOCK_UN)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._filled(place, size, fetch):
                return None

    def _filled(self, place: Path, size: int, fetch: Callable[[Path], None]) -> bool:
        """Whether the model is there, after it was fetched where it was not. The caller holds its lock alone."""
        if (place / _HASHES).is_file():
            if self._is_whole(place):
                return True
            self._report.log(f"the kept model {place.name[:12]} is damaged, and fetched again")
            self._remove(place)
        for left in self._root.glob(f"{place.name}.partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        self._make_room(size, place.name)
        partial = place.with_name(f"{place.name}.partial-{uuid4().hex[:8]}")
        try:
            partial.mkdir()
            fetch(partial / _CONTENT)
            _seal(partial)
            partial.rename(place)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._report.log("the model is not kept: the cache's volume is full")
            return False
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return True

    def _is_whole(self, place: Path) -> bool:
        """Whether every file is what was fetched; somebody else's pod may have written there."""
        try:
            hashes = json.loads((place / _HASHES).read_text())
            return bool(hashes) and all(
                hash_file(place / _CONTENT / name) == Transferred(*expected) for name, expected in hashes.items()
            )
        except (OSError, ValueError, TypeError, AttributeError):
            return False

    def _make_room(self, size: int, wanted: str) -> None:
        """Removes the models that were not used for longest, but none that a pod uses, until `size` fits."""
        kept = sorted(self._kept(), key=lambda path: (path / _HASHES).stat().st_mtime)
        total = sum(_size(path) for path in kept) + size
        for path in kept:
            if total <= self._limit:
                return
            lock = self._lock(path.name)
            try:
                if path.name == wanted or not _alone(lock):
                    continue
                total -= _size(path)
                self._report.log(f"the kept model {path.name[:12]} makes room")
                self._remove(path)
            finally:
                os.close(lock)

    def _kept(self) -> Iterator[Path]:
        return (path for path in self._root.iterdir() if path.is_dir() and (path / _HASHES).is_file())

    def _remove(self, place: Path) -> None:
        """Away by one rename first: nobody sees half of it."""
        gone = place.with_name(f"{place.name}.partial-{uuid4().hex[:8]}")
        place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _lock(self, digest: str) -> int:
        """The open lock of a model. Its file is never removed: another pod may be waiting for it."""
        return os.open(self._root / f"{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)

    def close(self) -> None:
        """Lets go of every model; the end of the process does so too."""
        while self._held:
            os.close(self._held.pop())


def _alone(lock: int) -> bool:
    """Whether the lock could be had alone, at once."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _seal(partial: Path) -> None:
    """Writes down what was fetched, and leaves it to the volume's group."""
    content = partial / _CONTENT
    hashes = {}
    for path in sorted(content.rglob("*")):
        if path.is_dir():
            path.chmod(_FOLDER_MODE)
        else:
            found = hash_file(path)
            hashes[path.relative_to(content).as_posix()] = [found.size, found.sha256]
    for folder in (partial, content):
        folder.chmod(_FOLDER_MODE)
    (partial / _HASHES).write_text(json.dumps(hashes))


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
