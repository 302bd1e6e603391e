"""Pod logs, from the files that the node writes: `<logs_dir>/<namespace>/<pod>/<uid>/<container>.log`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Self

from finetune_local.apiserver.errors import bad_request, not_found
from finetune_local.apiserver.objects import Object, lookup
from finetune_local.apiserver.resources import Resource
from finetune_local.apiserver.routing import is_true
from finetune_local.apiserver.store import Entry, Store

_CHUNK = 64 * 1024
_POLL_SECONDS = 0.1
"""How often a followed file is looked at; there is no portable way to be told."""
_FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The query of a log request. Lines carry no time in the files: `sinceSeconds` and `sinceTime` leave out
    files that were last written before then, and `timestamps` gives each line the time of the file's last write
    (of its arrival, while following)."""

    container: str = ""
    follow: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    previous: bool = False

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> LogOptions:
        """Raises a 400 for numbers and times that are none."""
        since = None
        try:
            if "sinceSeconds" in query:
                since = datetime.fromtimestamp(datetime.now(UTC).timestamp() - int(query["sinceSeconds"]), UTC)
            elif "sinceTime" in query:
                since = datetime.fromisoformat(query["sinceTime"].replace("Z", "+00:00"))
            tail = int(query["tailLines"]) if "tailLines" in query else None
            limit = int(query["limitBytes"]) if "limitBytes" in query else None
        except ValueError as error:
            raise bad_request(f"invalid log options: {error}") from error
        return cls(
            query.get("container", ""),
            is_true(query.get("follow")),
            tail,
            limit,
            since,
            is_true(query.get("timestamps")),
            is_true(query.get("previous")),
        )


class PodLogs:
    """Reads the logs of pods."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory

    def open(self, resource: Resource, entry: Entry, options: LogOptions) -> AsyncIterator[bytes]:
        """A pod's log as it comes. Raises a 400 for a container that is not there or has not started."""
        name = _container(entry.obj, options.container)
        suffix = ".previous.log" if options.previous else ".log"
        namespace, pod = entry.key
        path = self._directory / namespace / pod / entry.uid / f"{name}{suffix}"
        if options.previous and not path.exists():
            text = f'previous terminated container "{name}" in pod "{pod}" not found'
            raise bad_request(text)
        waiting = _waiting_reason(entry.obj, name)
        if not path.exists() and waiting:
            raise bad_request(f'container "{name}" in pod "{pod}" is waiting to start: {waiting}')
        if self._store.get(entry.bucket, *entry.key) is None:
            raise not_found(resource, pod)
        return self._read(entry, path, options)

    async def _read(self, entry: Entry, path: Path, options: LogOptions) -> AsyncIterator[bytes]:
        left = options.limit_bytes
        async for data in self._chunks(entry, path, options):
            text = _stamped(data, path) if options.timestamps else data
            if left is not None:
                text = text[:left]
                left -= len(text)
            if text:
                yield text
            if left == 0:
                return

    async def _chunks(self, entry: Entry, path: Path, options: LogOptions) -> AsyncIterator[bytes]:
        """The file's content from where the options say, in whole lines while it grows."""
        position = _start(path, options)
        rest = b""
        with _Growing(path, position) as file:
            while True:
                # Asked before the file is read: what a pod wrote until its end is in the file by then.
                ended = not options.follow or self._ended(entry)
                while data := file.read(_CHUNK):
                    whole, newline, rest = (rest + data).rpartition(b"\n")
                    if newline:
                        yield whole + newline
                if ended:
                    if rest:
                        yield rest
                    return
                await asyncio.sleep(_POLL_SECONDS)

    def _ended(self, entry: Entry) -> bool:
        present = self._store.get(entry.bucket, *entry.key)
        if present is None or present.uid != entry.uid:
            return True
        return lookup(present.obj, "status", "phase") in _FINISHED


class _Growing:
    """A file that another process writes, from `position` on; it may come later, and be deleted before it is read."""

    def __init__(self, path: Path, position: int) -> None:
        self._path = path
        self._position = position
        self._file: BinaryIO | None = None
        # A deleted pod's log goes with it, perhaps before its last lines were looked for.
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes more; none where there are none now."""
        data = b"" if self._file is None else self._file.read(size)
        if not data and self._replaced():
            self._open()
            data = b"" if self._file is None else self._file.read(size)
        return data

    def _replaced(self) -> bool:
        """Whether the path leads to a file that is not read yet: the first, or a restarted container's."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return self._file is None or not os.path.samestat(found, os.fstat(self._file.fileno()))

    def _open(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            file = self._path.open("rb", buffering=0)
            if self._file is None:
                file.seek(self._position)
            else:
                self._file.close()
            self._file = file


def _start(path: Path, options: LogOptions) -> int:
    """The offset of the first byte that is asked for."""
    if not path.exists():
        return 0
    size = path.stat().st_size
    if options.since is not None and path.stat().st_mtime < options.since.timestamp():
        return size
    if options.tail_lines is None:
        return 0
    return _tail(path, size, options.tail_lines)


def _tail(path: Path, size: int, lines: int) -> int:
    """Where the last `lines` lines begin; the file is read from its end."""
    if lines <= 0:
        return size
    position, wanted = size, lines
    with path.open("rb") as file:
        while position > 0:
            start = max(0, position - _CHUNK)
            file.seek(start)
            block = file.read(position - start)
            if position == size and block.endswith(b"\n"):
                wanted += 1
            at = len(block)
            while wanted and (at := block.rfind(b"\n", 0, at)) >= 0:
                wanted -= 1
            if not wanted:
                return start + at + 1
            position = start
    return 0


def _stamped(data: bytes, path: Path) -> bytes:
    changed = path.stat().st_mtime if path.exists() else time.time()
    written = datetime.fromtimestamp(changed, UTC).isoformat().replace("+00:00", "Z").encode()
    return b"".join(written + b" " + line for line in data.splitlines(keepends=True))


def _container(pod: Object, asked: str) -> str:
    """The container whose log is meant. Raises a 400 where that is not clear."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    own = [container["name"] for container in spec.get("containers", ())]
    initial = [container["name"] for container in spec.get("initContainers", ())]
    if asked:
        if asked not in (*own, *initial):
            raise bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(own) + len(initial) != 1:
        chosen = f"choose one of: [{' '.join(own)}]"
        also = f" or one of the init containers: [{' '.join(initial)}]" if initial else ""
        raise bad_request(f"a container name must be specified for pod {name}, {chosen}{also}")
    return own[0]


def _waiting_reason(pod: Object, container: str) -> str:
    status = pod.get("status") or {}
    for member in ("containerStatuses", "initContainerStatuses"):
        for entry in status.get(member) or ():
            if entry["name"] == container:
                return lookup(entry, "state", "waiting", "reason") or ""
    return "" if status.get("phase") in _FINISHED else "ContainerCreating"
