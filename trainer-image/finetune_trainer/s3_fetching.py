"""Objects from S3 in ranges, several at a time, hashed as they come; memory does not grow with them.

s3transfer, boto3's own, is not used for this: its downloads into streams, which can be hashed, were seen to lock up for
good with four large files at once, and held hundreds of MiB.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore import exceptions as boto

from finetune_trainer.objects import CHUNK, Moved, Transferred
from finetune_trainer.s3_errors import error_code, http_status
from finetune_trainer.s3_retries import TruncatedError, is_transient, patiently
from finetune_trainer.s3_wire import RANGE, WORKERS, Pool, Wire, about

Answered = Callable[[Any], None]


class GoneError(Exception):
    """An object is not there, or another one has taken its place while it was fetched."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class AbandonedError(Exception):
    """A fetch that nobody waits for any more."""


@dataclass(frozen=True)
class Range:
    """Bytes of an object from `start` to `end`, not included (None: its end); only of the one with the ETag `tag`."""

    key: str
    start: int = 0
    end: int | None = None
    tag: str | None = None


class Fetching:
    """Fetches objects: threads write their parts where they belong, and hash them in order as they come."""

    def __init__(self, wire: Wire, moved: Moved | None = None) -> None:
        self._wire = wire
        self._moved = moved or (lambda amount: None)
        self._pool = Pool()
        self._lock = threading.Lock()
        self._waiting: Iterator[_Download] = iter(())

    def fetch(self, files: Mapping[str, Path]) -> dict[str, Transferred]:
        """What came, by key. Raises GoneError, and what botocore raises.

        So many objects are on their way at a time as there are threads: of each, a file is open.
        """
        downloads = {key: _Download(self, key, path) for key, path in files.items()}
        self._waiting = iter(downloads.values())
        try:
            for _ in range(WORKERS):
                self.begin_next()
            self._pool.finish()
        finally:
            self._pool.close()
            for download in downloads.values():
                download.close()
        return {key: download.came() for key, download in downloads.items()}

    def begin_next(self) -> None:
        """Begins with the next object, if any is left: whenever one is done."""
        with self._lock:
            download = next(self._waiting, None)
        if download:
            self._pool.submit(download.first)

    def submit(self, task: Callable[[], None]) -> None:
        """For downloads: their further parts."""
        self._pool.submit(task)

    def finish(self) -> None:
        """Waits for all that was submitted; raises the first failure."""
        self._pool.finish()

    def ranged(self, wanted: Range, take: Callable[[int, bytes], None], answered: Answered | None = None) -> None:
        """Hands the bytes of `wanted` to `take`, each with its place; `answered` is told S3's first answer before.

        A stream that breaks goes on where it broke, of the same object alone.
        """
        reached, tag = wanted.start, wanted.tag

        def go_on() -> None:
            nonlocal reached, tag
            answer = self._get(wanted.key, reached, wanted.end, tag)
            if reached and not str(answer.get("ContentRange")).startswith(f"bytes {reached}-"):
                answer["Body"].close()
                raise TruncatedError(f"{wanted.key}: the store sent other bytes than those from {reached} on")
            if tag is None:
                tag = answer["ETag"]
                if answered:
                    answered(answer)
            expected = reached + int(answer["ContentLength"])
            with contextlib.closing(answer["Body"]) as body:
                while content := body.read(CHUNK):
                    if self._pool.ended:
                        raise AbandonedError(wanted.key)
                    take(reached, content)
                    reached += len(content)
                    self._moved(len(content))
            if reached < expected:
                raise TruncatedError(f"{wanted.key}: {expected - reached} bytes are missing")

        while True:
            before = reached
            try:
                with about(wanted.key):
                    patiently(self._wire.patience, go_on)
            except Exception as error:
                # Patience begins anew where the last tries brought something.
                if reached == before or not is_transient(error):
                    raise
            else:
                return

    def _get(self, key: str, start: int, end: int | None, tag: str | None) -> Any:
        get, whole = self._wire.client.get_object, {"Bucket": self._wire.bucket, "Key": key}
        only = {"IfMatch": tag} if tag else {}
        try:
            return get(**whole, **only, Range=f"bytes={start}-{'' if end is None else end - 1}")
        except boto.ClientError as error:
            if error_code(error) in ("NoSuchKey", "404") or http_status(error) == 412:
                raise GoneError(key) from error
            if http_status(error) == 416 and start == 0:
                # No range of an empty object can be satisfied.
                return get(**whole)
            raise


class _Download:
    """One object on its way into a file, which is open from the first range to the last."""

    def __init__(self, fetching: Fetching, key: str, path: Path) -> None:
        self._fetching, self._key, self._path = fetching, key, path
        self._file: int | None = None
        self._sha256 = hashlib.sha256()
        self._hashed = 0
        self._lock, self._hashing = threading.Lock(), threading.Lock()
        # Start of each range → up to where it has come.
        self._reached = {0: 0}
        self._left = 1

    def first(self) -> None:
        """Fetches the first range; its answer tells the object's size, and the others are fetched meanwhile."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._fetching.ranged(Range(self._key, 0, RANGE), self._write, self._others)
        self._ranged()

    def _others(self, answer: Any) -> None:
        said = answer.get("ContentRange")
        size = int(said.rpartition("/")[2]) if said else int(answer["ContentLength"])
        starts = range(RANGE, size, RANGE)
        with self._lock:
            self._left += len(starts)
        for start in starts:
            self._fetching.submit(self._later(Range(self._key, start, min(start + RANGE, size), answer["ETag"])))

    def _later(self, wanted: Range) -> Callable[[], None]:
        def run() -> None:
            with self._lock:
                self._reached[wanted.start] = wanted.start
            self._fetching.ranged(wanted, self._write)
            self._ranged()

        return run

    def _ranged(self) -> None:
        """A range is here; after the last one the next object's turn comes."""
        self._hash_on()
        with self._lock:
            self._left -= 1
            left = self._left
        if not left:
            self.close()
            self._fetching.begin_next()

    def _write(self, place: int, content: bytes) -> None:
        assert self._file is not None
        view, at = memoryview(content), place
        while view:
            written = os.pwrite(self._file, view, at)
            at, view = at + written, view[written:]
        with self._lock:
            start = max(start for start in self._reached if start <= place)
            self._reached[start] = at
        if self._hashing.acquire(blocking=False):
            # Most bytes are hashed while they are at hand, without being read again.
            try:
                if self._hashed == place:
                    self._sha256.update(content)
                    self._hashed = at
            finally:
                self._hashing.release()

    def _hash_on(self) -> None:
        """Hashes what is there without a gap; what came too early is hashed by whoever fills the gap."""
        with self._hashing:
            assert self._file is not None
            while (until := self._whole_until()) > self._hashed:
                content = os.pread(self._file, min(CHUNK, until - self._hashed), self._hashed)
                self._sha256.update(content)
                self._hashed += len(content)

    def _whole_until(self) -> int:
        """Up to where nothing is missing."""
        with self._lock:
            until = 0
            for start, reached in sorted(self._reached.items()):
                if start > until:
                    break
                until = max(until, reached)
            return until

    def came(self) -> Transferred:
        """What came, when all is here."""
        return Transferred(self._hashed, self._sha256.hexdigest())

    def close(self) -> None:
        """Closes the file, if it is open."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def hash_objects(wire: Wire, keys: list[str], moved: Moved | None = None) -> dict[str, Transferred]:
    """Size and sha256 of objects, read from beginning to end and kept nowhere. Raises GoneError."""
    fetching, found = Fetching(wire, moved), {}

    def one(key: str) -> None:
        sha256, size = hashlib.sha256(), 0

        def take(_: int, content: bytes) -> None:
            nonlocal size
            sha256.update(content)
            size += len(content)

        fetching.ranged(Range(key), take)
        found[key] = Transferred(size, sha256.hexdigest())

    for key in keys:
        fetching.submit(lambda key=key: one(key))  # type: ignore[misc]
    fetching.finish()
    return found
