"""Object metadata: what the server sets, what it keeps, what it refuses."""

from __future__ import annotations

import re
from typing import Any

from finetune_local.apiserver.errors import (
    Cause,
    forbidden_value,
    invalid_value,
    required,
    too_long,
)
from finetune_local.apiserver.objects import Object, clone, name_suffix, new_uid, now
from finetune_local.apiserver.resources import Resource

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_SUBDOMAIN = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"
_QUALIFIED_PART = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = rf"({_QUALIFIED_PART})?"
_MAX_LABEL = 63
_MAX_NAME = 253
_MAX_ANNOTATIONS = 256 * 1024

_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    f"'{_DNS_LABEL}')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_DNS_SUBDOMAIN}')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    f"validation is '({_LABEL_VALUE}')"
)
_KEY_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    f"'{_QUALIFIED_PART}')"
)
_KEPT = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "uid",
)


def initialise(obj: Object, resource: Resource, namespace: str) -> None:
    """Give a new object its identity. Whatever a client wrote into those members is dropped."""
    metadata = obj.setdefault("metadata", {})
    for member in ("deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "selfLink", "generation"):
        metadata.pop(member, None)
    if not metadata.get("name") and metadata.get("generateName"):
        stem = metadata["generateName"][: _MAX_LABEL - 5]
        metadata["name"] = stem + name_suffix()
    metadata["uid"] = new_uid()
    metadata["creationTimestamp"] = now()
    if resource.namespaced:
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    if resource.strategy.has_generation(obj):
        metadata["generation"] = 1
    _drop_empty(metadata)


def carry_over(new: Object, old: Object) -> None:
    """Restore in an update the members of metadata that no client can change."""
    metadata = new.setdefault("metadata", {})
    for member in _KEPT:
        if member in old["metadata"]:
            metadata[member] = clone(old["metadata"][member])
        else:
            metadata.pop(member, None)
    metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
    metadata.pop("selfLink", None)
    _drop_empty(metadata)


def _drop_empty(metadata: Object) -> None:
    for member in ("labels", "annotations", "finalizers", "ownerReferences"):
        if not metadata.get(member):
            metadata.pop(member, None)


def metadata_causes(obj: Object, resource: Resource, old: Object | None) -> list[Cause]:
    """What is wrong with an object's metadata."""
    metadata = obj["metadata"]
    causes: list[Cause] = []
    if old is None:
        causes += _name_causes(metadata, resource)
    elif old["metadata"] == metadata:
        return []
    causes += label_causes(metadata.get("labels") or {}, "metadata.labels")
    causes += _annotation_causes(metadata.get("annotations") or {})
    causes += _owner_causes(metadata.get("ownerReferences") or [])
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        causes += _finalizer_causes(finalizer, f"metadata.finalizers[{index}]")
    if old is not None and "deletionTimestamp" in old["metadata"]:
        added = set(metadata.get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
        if added:
            listed = ", ".join(f'"{finalizer}"' for finalizer in sorted(added))
            text = (
                "no new finalizers can be added if the object is being deleted, found new finalizers "
                f"[]string{{{listed}}}"
            )
            causes.append(forbidden_value("metadata.finalizers", text))
    return causes


def _name_causes(metadata: Object, resource: Resource) -> list[Cause]:
    name = metadata.get("name")
    if not name:
        return [required("metadata.name", "name or generateName is required")]
    if resource.strategy.path_names:
        if name in (".", "..") or "/" in name or "%" in name:
            return [invalid_value("metadata.name", name, "may not be '.', '..' or contain '/' or '%'")]
        return []
    label = resource.strategy.name_is_label
    limit = _MAX_LABEL if label else _MAX_NAME
    if len(name) > limit:
        return [invalid_value("metadata.name", name, f"must be no more than {limit} bytes")]
    if not re.fullmatch(_DNS_LABEL if label else _DNS_SUBDOMAIN, name):
        return [invalid_value("metadata.name", name, _LABEL_TEXT if label else _SUBDOMAIN_TEXT)]
    return []


def label_causes(labels: dict[str, Any], path: str) -> list[Cause]:
    """What is wrong with labels."""
    causes: list[Cause] = []
    for key, value in labels.items():
        causes += _key_causes(key, path)
        if len(value) > _MAX_LABEL:
            causes.append(invalid_value(path, value, f"must be no more than {_MAX_LABEL} bytes"))
        elif not re.fullmatch(_LABEL_VALUE, value):
            causes.append(invalid_value(path, value, _VALUE_TEXT))
    return causes


def _key_causes(key: str, path: str) -> list[Cause]:
    prefix, slash, part = key.rpartition("/")
    if slash and not (0 < len(prefix) <= _MAX_NAME and re.fullmatch(_DNS_SUBDOMAIN, prefix)):
        return [invalid_value(path, key, f"prefix part {_SUBDOMAIN_TEXT}")]
    if len(part) > _MAX_LABEL:
        return [invalid_value(path, key, f"name part must be no more than {_MAX_LABEL} bytes")]
    if not re.fullmatch(_QUALIFIED_PART, part):
        return [invalid_value(path, key, _KEY_TEXT)]
    return []


def _annotation_causes(annotations: dict[str, str]) -> list[Cause]:
    causes: list[Cause] = []
    for key in annotations:
        causes += _key_causes(key.lower(), "metadata.annotations")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _MAX_ANNOTATIONS:
        causes.append(too_long("metadata.annotations", _MAX_ANNOTATIONS))
    return causes


def _owner_causes(owners: list[Object]) -> list[Cause]:
    causes: list[Cause] = []
    for index, owner in enumerate(owners):
        for member in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(member):
                text = {"uid": "uid must not be empty", "name": "name must not be empty"}.get(
                    member, "version must not be empty" if member == "apiVersion" else "kind must not be empty"
                )
                causes.append(invalid_value(f"metadata.ownerReferences[{index}].{member}", "", text))
    controllers = [owner.get("name") for owner in owners if owner.get("controller")]
    if len(controllers) > 1:
        text = "Only one reference can have Controller set to true. Found"
        listed = " and ".join(f'"true" in references for {owner}' for owner in controllers)
        causes.append(invalid_value("metadata.ownerReferences", owners, f"{text} {listed}"))
    return causes


def _finalizer_causes(finalizer: str, path: str) -> list[Cause]:
    if "/" not in finalizer and finalizer not in ("orphan", "foregroundDeletion", "kubernetes"):
        if re.fullmatch(_DNS_SUBDOMAIN, finalizer) and "." in finalizer:
            return []
        text = "name is neither a standard finalizer name nor is it fully qualified"
        return [invalid_value(path, finalizer, text)]
    return _key_causes(finalizer, path)
