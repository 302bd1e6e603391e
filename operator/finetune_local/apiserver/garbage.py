"""The garbage collector: dependents follow their owners.

Kubernetes' rules (https://kubernetes.io/docs/concepts/architecture/garbage-collection/): an object whose owners are
all gone is deleted; one that loses some of its owners loses the references to them. An owner with the finalizer
`foregroundDeletion` stays until the dependents that block it are gone, one with `orphan` until its dependents have
let go of it.
"""

from __future__ import annotations

import asyncio
import logging

from finetune_local.apiserver.deletion import FOREGROUND, ORPHAN, DeleteOptions, Deleter
from finetune_local.apiserver.errors import ApiError
from finetune_local.apiserver.objects import Object, clone, owner_uids
from finetune_local.apiserver.resources import Registry
from finetune_local.apiserver.store import Change, Entry, Store
from finetune_local.apiserver.writes import Target, WriteOptions, Writer

_log = logging.getLogger(__name__)
_OPTIONS = WriteOptions(manager="kube-controller-manager")


class GarbageCollector:
    """Looks again at every object that a change concerns. Runs as a task beside the server."""

    def __init__(self, store: Store, registry: Registry, writer: Writer, deleter: Deleter) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._deleter = deleter
        self._pending: dict[str, None] = {}
        self._woken = asyncio.Event()
        store.subscribe(self._notice)
        for entry in store.all_entries():
            if self._concerns(entry.obj):
                self._add(entry.uid)

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._pending:
                uid = next(iter(self._pending))
                del self._pending[uid]
                self._look_at(uid)
                await asyncio.sleep(0)

    def _concerns(self, obj: Object) -> bool:
        metadata = obj["metadata"]
        return bool(metadata.get("ownerReferences")) or "deletionTimestamp" in metadata

    def _notice(self, change: Change) -> None:
        entry = change.entry
        if change.type == "DELETED":
            for dependent in self._store.dependents(entry.uid):
                self._add(dependent.uid)
            for owner in owner_uids(entry.obj):
                self._add(owner)
        elif self._concerns(entry.obj):
            owners_changed = change.previous is None or change.previous.obj["metadata"].get(
                "ownerReferences"
            ) != entry.obj["metadata"].get("ownerReferences")
            if owners_changed or "deletionTimestamp" in entry.obj["metadata"]:
                self._add(entry.uid)
            if owners_changed and change.previous is not None:
                for owner in owner_uids(change.previous.obj):
                    self._add(owner)

    def _add(self, uid: str) -> None:
        self._pending[uid] = None
        self._woken.set()

    def _look_at(self, uid: str) -> None:
        entry = self._store.by_uid(uid)
        if entry is None:
            return
        try:
            finalizers = entry.obj["metadata"].get("finalizers") or ()
            if "deletionTimestamp" in entry.obj["metadata"]:
                if ORPHAN in finalizers:
                    self._orphan(entry)
                elif FOREGROUND in finalizers:
                    self._finish_foreground(entry)
            else:
                self._follow_owners(entry)
        except ApiError as error:
            # A write of someone else came between; its own notice brings the object back here.
            _log.debug("garbage collection of %s %s: %s", entry.bucket, entry.key, error)

    def _orphan(self, owner: Entry) -> None:
        for dependent in self._store.dependents(owner.uid):
            self._drop_owners(dependent, {owner.uid})
        self._drop_finalizer(owner, ORPHAN)

    def _finish_foreground(self, owner: Entry) -> None:
        blocking = [d for d in self._store.dependents(owner.uid) if _blocks(d.obj, owner.uid)]
        if not blocking:
            self._drop_finalizer(owner, FOREGROUND)
        for dependent in blocking:
            if "deletionTimestamp" not in dependent.obj["metadata"]:
                self._follow_owners(dependent)

    def _follow_owners(self, entry: Entry) -> None:
        """Delete an object that no owner holds any more; else drop its references to owners that do not."""
        owners = list(owner_uids(entry.obj))
        if not owners:
            return
        held: set[str] = set()
        waiting: set[str] = set()
        for uid in owners:
            owner = self._owner(entry, uid)
            if owner is None:
                continue
            metadata = owner.obj["metadata"]
            foreground = FOREGROUND in (metadata.get("finalizers") or ())
            (waiting if "deletionTimestamp" in metadata and foreground else held).add(uid)
        if held:
            lost = set(owners) - held
            if lost:
                self._drop_owners(entry, lost)
            return
        has_dependents = bool(self._store.dependents(entry.uid))
        policy = "Foreground" if waiting and has_dependents else _left_policy(entry.obj)
        self._deleter.delete(self._target(entry), DeleteOptions(policy=policy, uid=entry.uid))

    def _owner(self, dependent: Entry, uid: str) -> Entry | None:
        """The owner with this uid, if it exists where an owner of `dependent` may be."""
        owner = self._store.by_uid(uid)
        if owner is None or owner.key[0] not in ("", dependent.key[0]):
            return None
        return owner

    def _target(self, entry: Entry) -> Target:
        resource = self._registry.of_bucket(entry.bucket)
        if resource is None:
            raise ApiError(404, "NotFound", f"the kind of {entry.bucket} is not served any more")
        return Target(resource, *entry.key)

    def _drop_owners(self, entry: Entry, uids: set[str]) -> None:
        def produce(obj: Object) -> Object:
            changed = clone(obj)
            owners = [o for o in changed["metadata"]["ownerReferences"] if o["uid"] not in uids]
            changed["metadata"]["ownerReferences"] = owners
            return changed

        self._writer.update(self._target(entry), produce, _OPTIONS)

    def _drop_finalizer(self, entry: Entry, finalizer: str) -> None:
        def produce(obj: Object) -> Object:
            changed = clone(obj)
            changed["metadata"]["finalizers"] = [f for f in changed["metadata"]["finalizers"] if f != finalizer]
            return changed

        self._writer.update(self._target(entry), produce, _OPTIONS)


def _blocks(obj: Object, owner: str) -> bool:
    references = obj["metadata"].get("ownerReferences") or ()
    return any(ref["uid"] == owner and ref.get("blockOwnerDeletion") for ref in references)


def _left_policy(obj: Object) -> str:
    """The policy that an object's own finalizers ask for; the collector's own choice is the background."""
    finalizers = obj["metadata"].get("finalizers") or ()
    if ORPHAN in finalizers:
        return "Orphan"
    return "Foreground" if FOREGROUND in finalizers else "Background"
