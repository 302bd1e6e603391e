"""Input models that are kept on a volume between stages and jobs, by the digest that pins them.

The volume is one namespace's, and many pods may use it at once, on one node or on several. A model is a folder of its
own, which appears there whole, by one rename. Pods hold its lock, shared, for as long as they live; who fetches or
removes one holds it alone. Locks are flock's, which local disks and NFS 4 know, and which end with their process.

All of it is the group's that the volume belongs to (the pods' fsGroup), to read, replace and remove, whatever user a
pod runs as and whatever its umask is.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from finetune_trainer.objects import Transferred, hash_file
from finetune_trainer.report import Reporter

_CONTENT = "model"
_HASHES = "hashes.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FOLDER_MODE, _FILE_MODE, _UMASK = 0o2775, 0o664, 0o002


class ModelCache:
    """Models below `root`, `limit` bytes of them at most. Not for several threads."""

    def __init__(self, root: Path, limit: int, report: Reporter) -> None:
        self._root, self._limit, self._report = root, limit, report
        self._held: list[int] = []

    def folder(self, digest: str, size: int, fetch: Callable[[Path], None]) -> Path | None:
        """The folder with the model of this digest, which `fetch` fills where it is not there yet.

        `size` is about what it takes, in bytes. None where it cannot be kept: it is larger than the limit, the volume
        is full, or this pod may not write to it. What else `fetch` raises is raised, and nothing stays of it.
        """
        if size > self._limit:
            self._report.log(f"the model is not kept: {size} bytes are more than the cache may hold ({self._limit})")
            return None
        with _shared_with_the_group():
            try:
                return self._kept_folder(digest, size, fetch)
            except OSError as error:
                if error.errno not in (*_NO_ROOM, *_CLOSED):
                    raise
                why = "is full" if error.errno in _NO_ROOM else f"cannot be written to ({error})"
                self._report.log(f"the model is not kept: the cache's volume {why}")
                return None

    def _kept_folder(self, digest: str, size: int, fetch: Callable[[Path], None]) -> Path:
        if not self._root.is_dir():
            self._root.mkdir(parents=True, exist_ok=True)
            with suppress(PermissionError):
                self._root.chmod(_FOLDER_MODE)
        place, lock = self._root / digest, self._lock(digest)
        try:
            found = self._shared(place, lock, size, fetch)
        except BaseException:
            os.close(lock)
            raise
        self._held.append(lock)
        return found

    def _shared(self, place: Path, lock: int, size: int, fetch: Callable[[Path], None]) -> Path:
        """The model's folder, its lock shared."""
        looked: tuple[int, int] | None = None
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            # What was looked at a moment ago, alone, need not be read again: unless another pod came in between.
            if (looked is not None and _identity(place) == looked) or self._is_whole(place):
                # What was used last is removed last; who may not say so uses it all the same.
                with suppress(PermissionError):
                    os.utime(place / _HASHES)
                if looked is None:
                    self._report.log(f"the model {place.name[:12]} is on the cache's volume: nothing is fetched")
                return place / _CONTENT
            # On NFS two pods that both hold it shared would wait for each other for good.
            fcntl.flock(lock, fcntl.LOCK_UN)
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._fill(place, size, fetch)
            looked = _identity(place)

    def _fill(self, place: Path, size: int, fetch: Callable[[Path], None]) -> None:
        """Sees to it that the whole model is there. The caller holds its lock alone."""
        if (place / _HASHES).is_file():
            if self._is_whole(place):
                return
            self._report.log(f"the kept model {place.name[:12]} is damaged, and fetched again")
            self._remove(place)
        for left in self._root.glob(f"{place.name}.partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        self._make_room(size, place.name)
        partial = place.with_name(f"{place.name}.partial-{uuid4().hex[:8]}")
        try:
            partial.mkdir()
            partial.chmod(_FOLDER_MODE)
            fetch(partial / _CONTENT)
            _seal(partial)
            partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

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
        self._sweep(wanted)
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

    def _sweep(self, wanted: str) -> None:
        """Removes what pods that were killed have left of other models: who fetches one holds its lock."""
        for left in self._root.glob("*.partial-*"):
            digest = left.name.partition(".")[0]
            if digest == wanted:
                continue
            lock = self._lock(digest)
            try:
                if _alone(lock):
                    shutil.rmtree(left, ignore_errors=True)
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
        path = self._root / f"{digest}.lock"
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        except PermissionError:
            if not path.exists():
                raise
            # Another user's, who left it to nobody. It can be held all the same, but on NFS.
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

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


@contextmanager
def _shared_with_the_group() -> Iterator[None]:
    """What is made meanwhile, by whatever library, the group may write to."""
    before = os.umask(_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def _identity(place: Path) -> tuple[int, int] | None:
    """Which folder and which list of hashes these are; None where there are none."""
    try:
        return place.stat().st_ino, (place / _HASHES).stat().st_ino
    except OSError:
        return None


def _seal(partial: Path) -> None:
    """Writes down what was fetched, and leaves it to the volume's group."""
    content = partial / _CONTENT
    hashes = {}
    for path in sorted(content.rglob("*")):
        if path.is_dir():
            path.chmod(_FOLDER_MODE)
        else:
            # Some libraries make files that are their user's alone, whatever the umask.
            path.chmod(_FILE_MODE)
            found = hash_file(path)
            hashes[path.relative_to(content).as_posix()] = [found.size, found.sha256]
    content.chmod(_FOLDER_MODE)
    (partial / _HASHES).write_text(json.dumps(hashes))


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
