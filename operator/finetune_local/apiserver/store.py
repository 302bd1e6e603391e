"""The versioned store: objects, the history of their changes, and the indexes that keep writes O(1).

One counter numbers all writes, as etcd's revision does; an object's `resourceVersion` is the number of its
last write. Everything happens on one thread without awaiting, so each operation is atomic.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from finetune_local.apiserver.objects import Object, encode, name_of, namespace_of, owner_uids

FIRST_REVISION = 1000
"""Where counting starts: a client's resourceVersion below it is one that this server never gave."""

HISTORY = 2048
"""How many changes of one kind a watch can reach back over, at least."""

Key = tuple[str, str]
"""Namespace ("" for cluster-scoped objects) and name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one object. `obj` is never changed; `raw` is its JSON."""

    bucket: str
    obj: Object
    raw: bytes
    revision: int

    @property
    def key(self) -> Key:
        return namespace_of(self.obj), name_of(self.obj)

    @property
    def uid(self) -> str:
        return self.obj["metadata"]["uid"]


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `type` is ADDED, MODIFIED or DELETED; `entry` the new (of a deletion: the last) state."""

    type: str
    entry: Entry
    previous: Entry | None


class Journal(Protocol):
    """Where writes are kept beyond the life of the process."""

    def load(self) -> tuple[int, Iterable[tuple[str, bytes]]]:
        """The last revision, and (bucket, JSON) of every object."""

    def put(self, entry: Entry) -> None: ...

    def remove(self, entry: Entry) -> None: ...


@dataclass(slots=True)
class History:
    """The changes of one bucket, oldest first, and those who wait for the next one."""

    floor: int
    """Changes up to this revision are forgotten."""
    changes: list[Change] = field(default_factory=list)
    dropped: int = 0
    """How many changes were forgotten; positions count from the first one ever."""
    waiters: set[asyncio.Future[None]] = field(default_factory=set)

    def append(self, change: Change) -> None:
        self.changes.append(change)
        if len(self.changes) >= 2 * HISTORY:
            self.floor = self.changes[HISTORY - 1].entry.revision
            del self.changes[:HISTORY]
            self.dropped += HISTORY
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()

    @property
    def end(self) -> int:
        """The position after the last change."""
        return self.dropped + len(self.changes)

    def position_after(self, revision: int) -> int:
        """The position of the first change that is newer than `revision`."""
        return self.dropped + bisect_right(self.changes, revision, key=lambda change: change.entry.revision)

    def since(self, position: int) -> list[Change] | None:
        """The changes from a position on; None where they are forgotten."""
        if position < self.dropped:
            return None
        return self.changes[position - self.dropped :]

    async def wait(self, seconds: float) -> bool:
        """Wait for the next change, `seconds` at most. Returns whether one came."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=seconds)
            return waiter.done()
        finally:
            self.waiters.discard(waiter)


class Store:
    """All objects, by bucket, namespace and name."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.revision = FIRST_REVISION
        self._journal = journal
        self._objects: dict[str, dict[str, dict[str, Entry]]] = defaultdict(lambda: defaultdict(dict))
        self._counts: dict[str, int] = defaultdict(int)
        self._by_uid: dict[str, Entry] = {}
        self._dependents: dict[str, dict[str, Entry]] = defaultdict(dict)
        self._histories: dict[str, History] = {}
        self._listeners: list[Callable[[Change], None]] = []
        if journal is not None:
            self._restore(journal)
        self._forgotten = self.revision
        """Histories live in memory: a watch from before the start cannot resume."""

    def _restore(self, journal: Journal) -> None:
        self.revision, records = journal.load()
        self.revision = max(self.revision, FIRST_REVISION)
        for bucket, raw in records:
            obj = json.loads(raw)
            self._insert(Entry(bucket, obj, raw, int(obj["metadata"]["resourceVersion"])))

    def subscribe(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` after every write, before the writer goes on. It must not write itself."""
        self._listeners.append(listener)

    def get(self, bucket: str, namespace: str, name: str) -> Entry | None:
        return self._objects[bucket][namespace].get(name)

    def by_uid(self, uid: str) -> Entry | None:
        return self._by_uid.get(uid)

    def dependents(self, uid: str) -> list[Entry]:
        """The objects that name this uid as an owner."""
        found = self._dependents.get(uid)
        return list(found.values()) if found else []

    def entries(self, bucket: str, namespace: str = "") -> list[Entry]:
        """The objects of a bucket sorted by namespace and name; of one namespace unless that is ""."""
        spaces = self._objects[bucket]
        if namespace:
            return [entry for _, entry in sorted(spaces[namespace].items())]
        return [entry for space in sorted(spaces) for _, entry in sorted(spaces[space].items())]

    def count(self, bucket: str) -> int:
        return self._counts[bucket]

    def buckets(self) -> list[str]:
        return list(self._objects)

    def all_entries(self) -> Iterator[Entry]:
        return iter(list(self._by_uid.values()))

    def in_namespace(self, namespace: str) -> list[Entry]:
        """Everything within a namespace."""
        return [entry for spaces in self._objects.values() for entry in spaces.get(namespace, {}).values()]

    def history(self, bucket: str) -> History:
        history = self._histories.get(bucket)
        if history is None:
            history = self._histories[bucket] = History(floor=self._forgotten)
        return history

    def put(self, bucket: str, obj: Object) -> Entry:
        """Write an object (created or changed) and own it from now on. Sets its resourceVersion."""
        key = namespace_of(obj), name_of(obj)
        previous = self._objects[bucket][key[0]].get(key[1])
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        entry = Entry(bucket, obj, encode(obj), self.revision)
        if self._journal is not None:
            self._journal.put(entry)
        if previous is not None:
            self._unlink(previous)
        self._insert(entry)
        self._publish(Change("MODIFIED" if previous else "ADDED", entry, previous))
        return entry

    def remove(self, entry: Entry) -> Entry:
        """Delete an object. Returns its last state under the revision of its deletion."""
        self.revision += 1
        metadata = {**entry.obj["metadata"], "resourceVersion": str(self.revision)}
        obj = {**entry.obj, "metadata": metadata}
        last = Entry(entry.bucket, obj, encode(obj), self.revision)
        if self._journal is not None:
            self._journal.remove(last)
        self._unlink(entry)
        namespace, name = entry.key
        del self._objects[entry.bucket][namespace][name]
        self._publish(Change("DELETED", last, entry))
        return last

    def _insert(self, entry: Entry) -> None:
        namespace, name = entry.key
        self._objects[entry.bucket][namespace][name] = entry
        self._counts[entry.bucket] += 1
        self._by_uid[entry.uid] = entry
        for owner in owner_uids(entry.obj):
            self._dependents[owner][entry.uid] = entry

    def _unlink(self, entry: Entry) -> None:
        self._counts[entry.bucket] -= 1
        del self._by_uid[entry.uid]
        for owner in owner_uids(entry.obj):
            dependents = self._dependents[owner]
            dependents.pop(entry.uid, None)
            if not dependents:
                del self._dependents[owner]

    def _publish(self, change: Change) -> None:
        self.history(change.entry.bucket).append(change)
        for listener in self._listeners:
            listener(change)
