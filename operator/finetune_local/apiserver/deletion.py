"""Deleting objects: preconditions, propagation, finalizers and graceful ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_local.apiserver.errors import bad_request, conflict, not_found
from finetune_local.apiserver.objects import Object, clone
from finetune_local.apiserver.resources import Resource
from finetune_local.apiserver.store import Entry, Store
from finetune_local.apiserver.writes import Target, is_finished

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
POLICIES = {"Orphan": ORPHAN, "Foreground": FOREGROUND, "Background": None}
"""Propagation policy -> the finalizer under which the garbage collector carries it out."""


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """`meta/v1 DeleteOptions`."""

    policy: str | None = None
    grace_seconds: int | None = None
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False

    @classmethod
    def parse(cls, body: dict[str, Any]) -> DeleteOptions:
        """From a request's body. Raises a 400 for values that mean nothing."""
        preconditions = body.get("preconditions") or {}
        policy = body.get("propagationPolicy")
        if policy is None and body.get("orphanDependents") is not None:
            policy = "Orphan" if body["orphanDependents"] else "Background"
        if policy is not None and policy not in POLICIES:
            raise bad_request(f"invalid propagationPolicy {policy!r}: supported values: {', '.join(sorted(POLICIES))}")
        return cls(
            policy,
            body.get("gracePeriodSeconds"),
            preconditions.get("uid"),
            preconditions.get("resourceVersion"),
            bool(body.get("dryRun")),
        )


class Deleter:
    """Deletes from the store by the rules of each kind. Synchronous, so every deletion is atomic."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def delete(self, target: Target, options: DeleteOptions) -> tuple[Object, bool]:
        """Delete an object. Returns its last or present state, and whether it is gone."""
        resource = target.resource
        entry = self._store.get(resource.bucket, target.namespace, target.name)
        if entry is None:
            raise not_found(resource, target.name)
        _check_preconditions(target, entry.obj, options)
        obj = self._marked(resource, entry, options)
        finished = is_finished(obj)
        if options.dry_run:
            return obj, finished
        if finished:
            return self._store.remove(entry).obj, True
        if obj != entry.obj:
            obj = self._store.put(resource.bucket, obj).obj
        return obj, False

    def _marked(self, resource: Resource, entry: Entry, options: DeleteOptions) -> Object:
        """The object with its deletion written into its metadata."""
        obj = clone(entry.obj)
        metadata = obj["metadata"]
        grace = resource.strategy.grace_seconds(obj, options.grace_seconds)
        finalizers = _finalizers(metadata.get("finalizers") or [], resource, options.policy)
        if finalizers:
            metadata["finalizers"] = finalizers
        else:
            metadata.pop("finalizers", None)
        pending = metadata.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" in metadata and pending is not None:
            if options.grace_seconds is None:
                return obj
            grace = min(grace, pending)
            if grace == pending:
                return obj
        elif metadata.get("generation"):
            metadata["generation"] += 1
        end = datetime.now(UTC) + timedelta(seconds=grace)
        metadata["deletionTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata["deletionGracePeriodSeconds"] = grace
        if resource.bucket == "namespaces":
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        return obj


def _finalizers(present: list[str], resource: Resource, policy: str | None) -> list[str]:
    """The finalizers that carry out the policy: asked for, left from before, or the kind's default."""
    if policy is None:
        if ORPHAN in present or FOREGROUND in present:
            return present
        policy = resource.strategy.default_propagation
    kept = [finalizer for finalizer in present if finalizer not in (ORPHAN, FOREGROUND)]
    wanted = POLICIES[policy]
    return [*kept, wanted] if wanted else kept


def _check_preconditions(target: Target, obj: Object, options: DeleteOptions) -> None:
    metadata = obj["metadata"]
    for name, wanted, actual in (
        ("UID", options.uid, metadata["uid"]),
        ("ResourceVersion", options.resource_version, metadata["resourceVersion"]),
    ):
        if wanted and wanted != actual:
            why = f"Precondition failed: {name} in precondition: {wanted}, {name} in object meta: {actual}"
            raise conflict(target.resource, target.name, why)
