"""Who owns which fields: `metadata.managedFields`, and server-side apply on top of it.

https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from finetune_local.apiserver.errors import ApiError
from finetune_local.apiserver.fieldset import (
    SELF,
    FieldSet,
    difference,
    exactly_without,
    fields_of,
    is_entered,
    parts,
    paths,
    remove,
    union,
    without,
)
from finetune_local.apiserver.objects import Object, now
from finetune_local.apiserver.schemas import Schema, list_type

_UNMANAGED: FieldSet = {
    "f:apiVersion": {},
    "f:kind": {},
    "f:metadata": {
        f"f:{member}": {}
        for member in (
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "generation",
            "managedFields",
            "name",
            "namespace",
            "resourceVersion",
            "selfLink",
            "uid",
        )
    },
}


@dataclass(frozen=True, slots=True)
class Manager:
    """One entry of managedFields."""

    name: str
    operation: str
    api_version: str
    subresource: str
    fields: FieldSet
    time: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.name, self.operation, self.subresource

    def entry(self) -> Object:
        entry = {
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields,
            "manager": self.name,
            "operation": self.operation,
            "time": self.time,
        }
        return {**entry, "subresource": self.subresource} if self.subresource else entry


def managers_of(obj: Object) -> list[Manager]:
    return [
        Manager(
            entry.get("manager", ""),
            entry.get("operation", "Update"),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
            entry.get("fieldsV1") or {},
            entry.get("time", ""),
        )
        for entry in obj["metadata"].get("managedFields") or ()
        if entry.get("manager")
    ]


def record_update(new: Object, old: Object | None, schema: Schema | None, name: str, subresource: str) -> None:
    """Note in `new` that `name` wrote what differs from `old` (everything where that is None)."""
    others = managers_of(new if new["metadata"].get("managedFields") else old or new)
    changed, removed = difference(_managed(old or {"metadata": {}}), _managed(new), schema)
    changed, removed = without(changed, _UNMANAGED), without(removed, _UNMANAGED)
    key = (name, "Update", subresource)
    kept: list[Manager] = []
    own: FieldSet = {}
    for manager in others:
        if manager.key == key:
            own = without(manager.fields, removed)
            if not changed:
                kept.append(replace(manager, fields=own))
            continue
        fields = without(without(manager.fields, changed), removed)
        kept.append(replace(manager, fields=fields))
    if changed:
        kept.append(Manager(name, "Update", new["apiVersion"], subresource, union(own, changed), now()))
    _write(new, kept)


def _managed(obj: Object) -> Object:
    """An object less its managedFields, which are nobody's."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {**obj, "metadata": metadata}


def _write(obj: Object, managers: list[Manager]) -> None:
    entries = [manager.entry() for manager in managers if manager.fields]
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


@dataclass(frozen=True, slots=True)
class Application:
    """A server-side apply: who applies what with which force."""

    manager: str
    subresource: str
    body: Object
    force: bool


def apply(live: Object, application: Application, schema: Schema | None) -> Object:
    """`live` after a server-side apply, with its managedFields.

    Fields that the manager applied before and now leaves out are removed unless another manager has them too.
    Raises a 409 that lists every field whose value another manager has set differently, unless forced.
    """
    body, key = application.body, (application.manager, "Apply", application.subresource)
    wanted = without(fields_of(body, schema), _UNMANAGED)
    former: FieldSet = {}
    others: list[Manager] = []
    conflicts: list[tuple[Manager, FieldSet]] = []
    time = now()
    for manager in managers_of(live):
        if manager.key == key:
            former, time = manager.fields, manager.time if manager.fields == wanted else time
            continue
        clashing = _clashing(wanted, manager.fields, live, body, schema)
        if clashing:
            conflicts.append((manager, clashing))
        others.append(replace(manager, fields=without(manager.fields, clashing)))
    if conflicts and not application.force:
        raise _conflict(conflicts)
    merged = _merged(live, body, schema)
    dropped = exactly_without(former, wanted)
    for manager in others:
        dropped = exactly_without(dropped, manager.fields)
    if dropped:
        merged = remove(merged, dropped, schema)
    merged = {**merged, "metadata": dict(merged["metadata"])}
    own = Manager(application.manager, "Apply", body["apiVersion"], application.subresource, wanted, time)
    _write(merged, [*others, own])
    return merged


def _clashing(wanted: FieldSet, owned: FieldSet, live: Any, body: Any, schema: Schema | None) -> FieldSet:
    """The fields in both sets that have another value in `body` than in `live`."""
    current = {element: part for element, part, _ in parts(live, schema)}
    found: FieldSet = {}
    for element, part, below in parts(body, schema):
        if element not in wanted or element not in owned or element not in current:
            continue
        if current[element] == part:
            continue
        if wanted[element] and owned[element]:
            deeper = _clashing(wanted[element], owned[element], current[element], part, below)
            if deeper:
                found[element] = deeper
        elif not wanted[element] and (not owned[element] or SELF in owned[element]):
            found[element] = {}
    return found


def _merged(live: Any, body: Any, schema: Schema | None) -> Any:
    if type(live) is not type(body) or not is_entered(body, schema):
        return body
    new = {element: (part, below) for element, part, below in parts(body, schema)}
    if isinstance(body, dict):
        current = {element: part for element, part, _ in parts(live, schema)}
        merged = dict(live)
        for element, (part, below) in new.items():
            key = element.removeprefix("f:")
            merged[key] = _merged(current[element], part, below) if element in current else part
        return merged
    old = {element: part for element, part, _ in parts(live, schema)}
    order = list(new) if old.keys() <= new.keys() else [*old, *(e for e in new if e not in old)]
    if list_type(schema) == "set":
        return [new[element][0] if element in new else old[element] for element in order]
    return [_merged(old.get(element), *new[element]) if element in new else old[element] for element in order]


def _conflict(conflicts: list[tuple[Manager, FieldSet]]) -> ApiError:
    causes = []
    texts = []
    for manager, fields in conflicts:
        using = f'conflict with "{manager.name}"'
        if manager.subresource:
            using += f' with subresource "{manager.subresource}"'
        using += f" using {manager.api_version}"
        if manager.operation == "Update" and manager.time:
            using += f" at {manager.time}"
        listed = list(paths(fields))
        causes += [{"reason": "FieldManagerConflict", "message": using, "field": path} for path in listed]
        texts.append(f"{using}: {listed[0]}" if len(listed) == 1 else "\n- ".join((f"{using}:", *listed)))
    count = len(causes)
    noun = "conflict" if count == 1 else "conflicts"
    return ApiError(409, "Conflict", f"Apply failed with {count} {noun}: " + "\n".join(texts), {"causes": causes})
