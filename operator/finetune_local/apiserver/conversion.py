"""One object, several versions: between what is stored and what a version of the API shows."""

from __future__ import annotations

from finetune_local.apiserver.objects import Object
from finetune_local.apiserver.resources import Registry, Resource

_EVENT_NAMES = {
    "count": "deprecatedCount",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "involvedObject": "regarding",
    "lastTimestamp": "deprecatedLastTimestamp",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
}
"""Members of v1 events -> those of events.k8s.io/v1."""


def is_stored_form(registry: Registry, resource: Resource) -> bool:
    """Whether objects of this resource are shown as they are stored."""
    return registry.of_bucket(resource.bucket) is resource


def to_stored(registry: Registry, resource: Resource, obj: Object) -> Object:
    """`obj`, written in the version of `resource`, in the version that the store keeps."""
    kept = registry.of_bucket(resource.bucket)
    if kept is None or kept is resource:
        return obj
    converted = obj if resource.custom else _renamed(obj, {new: old for old, new in _EVENT_NAMES.items()})
    return {**converted, "apiVersion": kept.api_version}


def to_served(registry: Registry, resource: Resource, obj: Object) -> Object:
    """A stored object in the version of `resource`."""
    if is_stored_form(registry, resource):
        return obj
    converted = obj if resource.custom else _renamed(obj, _EVENT_NAMES)
    return {**converted, "apiVersion": resource.api_version}


def _renamed(obj: Object, names: dict[str, str]) -> Object:
    return {names.get(key, key): value for key, value in obj.items()}
