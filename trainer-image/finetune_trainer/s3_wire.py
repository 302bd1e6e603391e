"""What transfers to and from S3 share: the bucket, the threads, and the sizes that they move at once."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.objects import CHUNK
from finetune_trainer.s3_retries import Patience, patiently

# 10,000 parts are all that S3 takes: larger files have larger parts.
PART = 8 << 20
# What one request fetches at most. It goes to the disk as it comes, so large ones cost no memory; and a server that
# reads a whole object to tell its ETag, as rclone does, makes every request for a part of it cost as much as the whole.
RANGE = 256 << 20
_MOST_PARTS = 10_000
WORKERS = 8
# Parts that are read and not yet sent, the ones on their way among them.
HELD_PARTS = WORKERS + 2


@dataclass(frozen=True)
class Wire:
    """A bucket as transfers see it: keys are whole; `extra` goes with everything that is put (encryption)."""

    client: Any
    bucket: str
    patience: Patience
    extra: Mapping[str, Any] = field(default_factory=dict)

    def call(self, operation: str, **arguments: Any) -> Any:
        """One request, patiently; what it raises has the key as its note."""
        method = getattr(self.client, operation)
        with about(arguments.get("Key")):
            return patiently(self.patience, lambda: method(Bucket=self.bucket, **arguments))


@contextlib.contextmanager
def about(key: str | None) -> Iterator[None]:
    """Errors that are raised here get `key` as their note, for whoever tells of them (see `s3_errors.failure_of`)."""
    try:
        yield
    except Exception as error:
        if key and not hasattr(error, "__notes__"):
            error.add_note(key)
        raise


def part_size(size: int) -> int:
    """The size of each part of a file of `size` bytes, in whole MiB."""
    return max(PART, -(-size // _MOST_PARTS // CHUNK) * CHUNK)


def md5(content: bytes) -> bytes:
    """What S3 calls a content's MD5; it guards against accidents, not against people."""
    return hashlib.md5(content, usedforsecurity=False).digest()


class Pool:
    """Threads whose first failure ends the whole: what was not begun by then is not begun any more."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="s3")
        self._futures: list[Future[None]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._first: BaseException | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Runs `task` when a thread is free. Tasks may submit further ones."""
        with self._lock, contextlib.suppress(RuntimeError):  # shut down, since another task failed
            future = self._executor.submit(task)
            self._futures.append(future)
            future.add_done_callback(self._note)

    def _note(self, future: Future[None]) -> None:
        if not future.cancelled() and future.exception():
            self._first = self._first or future.exception()
            self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether a task failed, or nobody waits for what runs: what takes long had better end."""
        return self._ended.is_set()

    def finish(self) -> None:
        """Waits for all tasks; raises the first one's failure."""
        try:
            while True:
                with self._lock:
                    waiting = [future for future in self._futures if not future.done()]
                    done = [future for future in self._futures if future.done()]
                for future in done:
                    # Others may have ended because of the first one.
                    if failure := future.exception():
                        raise self._first or failure
                if not waiting:
                    return
                wait(waiting, return_when=FIRST_EXCEPTION)
        finally:
            self.close()

    def close(self) -> None:
        """Begins nothing more, and waits for what runs."""
        self._ended.set()
        self._executor.shutdown(wait=True, cancel_futures=True)
