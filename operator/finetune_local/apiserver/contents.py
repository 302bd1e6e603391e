"""Objects that contain others: a deleted namespace or definition goes when its last content is gone."""

from __future__ import annotations

import asyncio
import logging

from finetune_local.apiserver import crds
from finetune_local.apiserver.deletion import DeleteOptions, Deleter
from finetune_local.apiserver.errors import ApiError
from finetune_local.apiserver.objects import Object, clone, name_of, namespace_of
from finetune_local.apiserver.resources import Registry
from finetune_local.apiserver.store import Change, Entry, Store
from finetune_local.apiserver.strategies.definitions import CLEANUP
from finetune_local.apiserver.writes import NAMESPACES, Target, WriteOptions, Writer

_log = logging.getLogger(__name__)
_OPTIONS = WriteOptions(manager="kube-controller-manager")
_SERVICE_ACCOUNTS = "serviceaccounts"


class ContainerController:
    """Gives each namespace its default ServiceAccount, and empties what is being deleted."""

    def __init__(self, store: Store, registry: Registry, writer: Writer, deleter: Deleter) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._deleter = deleter
        self._woken = asyncio.Event()
        self._woken.set()
        self._dying: set[tuple[str, str]] = set()
        self._new: list[str] = []
        store.subscribe(self._notice)
        for bucket in (NAMESPACES, crds.BUCKET):
            self._dying |= {(bucket, name_of(e.obj)) for e in store.entries(bucket) if _is_deleted(e.obj)}

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._new:
                self.add_default_account(self._new.pop())
            for bucket, name in sorted(self._dying):
                self._empty(bucket, name)
                await asyncio.sleep(0)

    def add_default_account(self, namespace: str) -> None:
        """The ServiceAccount under which pods run that name none."""
        resource = self._registry.of_bucket(_SERVICE_ACCOUNTS)
        present = self._store.get(NAMESPACES, "", namespace)
        wanted = present is not None and not _is_deleted(present.obj)
        if resource is None or not wanted or self._store.get(_SERVICE_ACCOUNTS, namespace, "default"):
            return
        body: Object = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        self._writer.create(resource, namespace, body, _OPTIONS)

    def _notice(self, change: Change) -> None:
        entry = change.entry
        obj = entry.obj
        if entry.bucket in (NAMESPACES, crds.BUCKET):
            place = (entry.bucket, name_of(obj))
            if change.type == "DELETED":
                self._dying.discard(place)
            elif _is_deleted(obj):
                self._dying.add(place)
                self._woken.set()
            elif change.type == "ADDED" and entry.bucket == NAMESPACES:
                self._new.append(place[1])
                self._woken.set()
        elif change.type == "DELETED" and self._dying:
            inside = {(NAMESPACES, namespace_of(obj)), (crds.BUCKET, entry.bucket)}
            if inside & self._dying:
                self._woken.set()

    def _empty(self, bucket: str, name: str) -> None:
        container = self._store.get(bucket, "", name)
        if container is None:
            return
        content = self._store.in_namespace(name) if bucket == NAMESPACES else self._store.entries(name)
        for entry in content:
            self._delete(entry)
        if not (self._store.in_namespace(name) if bucket == NAMESPACES else self._store.entries(name)):
            self._release(container)

    def _delete(self, entry: Entry) -> None:
        resource = self._registry.of_bucket(entry.bucket)
        if resource is None or _is_deleted(entry.obj):
            return
        try:
            self._deleter.delete(Target(resource, *entry.key), DeleteOptions(policy="Background", uid=entry.uid))
        except ApiError as error:
            # Gone or changed meanwhile: its own notice wakes this controller again.
            _log.debug("emptying: %s", error)

    def _release(self, container: Entry) -> None:
        resource = self._registry.of_bucket(container.bucket)
        if resource is None:
            return

        def produce(obj: Object) -> Object:
            changed = clone(obj)
            if container.bucket == NAMESPACES:
                changed["spec"] = {}
            finalizers = changed["metadata"].get("finalizers") or []
            changed["metadata"]["finalizers"] = [f for f in finalizers if f != CLEANUP]
            return changed

        subresource = "finalize" if container.bucket == NAMESPACES else ""
        self._writer.update(Target(resource, "", name_of(container.obj), subresource), produce, _OPTIONS)


def _is_deleted(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]
