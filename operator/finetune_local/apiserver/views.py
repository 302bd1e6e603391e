"""Objects as they are sent: whole, as rows of a table, or their metadata alone."""

from __future__ import annotations

from typing import Any

import yaml

from finetune_local.apiserver.conversion import is_stored_form, to_served
from finetune_local.apiserver.negotiation import YAML, Answer, View
from finetune_local.apiserver.objects import Object, encode
from finetune_local.apiserver.resources import Registry, Resource
from finetune_local.apiserver.store import Entry
from finetune_local.apiserver.tables import table

_META_VERSION = "meta.k8s.io/v1"


class Renderer:
    """Renders objects of one resource in the form that a client accepts."""

    def __init__(self, registry: Registry, resource: Resource, answer: Answer, include: str = "Metadata") -> None:
        self._resource = resource
        self._registry = registry
        self._answer = answer
        self._include = include
        self._plain = answer.view is View.OBJECT and is_stored_form(registry, resource)

    def one(self, obj: Object) -> bytes:
        """A single object."""
        return self.document(self._shown(obj))

    def entry(self, entry: Entry) -> bytes:
        """A stored object; its bytes as they are where that will do."""
        if self._plain and self._answer.media_type != YAML:
            return entry.raw
        return self.one(entry.obj)

    def event(self, kind: str, entry: Entry, *, first: bool) -> bytes:
        """A line of a watch. `first`: the client has not yet been told the table's columns."""
        if self._plain:
            body = entry.raw
        else:
            shown = self._shown(entry.obj)
            if self._answer.view is View.TABLE and not first:
                shown["columnDefinitions"] = []
            body = encode(shown)
        return b'{"type":"%s","object":%s}\n' % (kind.encode(), body)

    def bookmark(self, revision: int, *, initial_end: bool = False) -> bytes:
        """The line that says up to where a watch has come."""
        metadata: Object = {"resourceVersion": str(revision)}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj: Object = {
            "apiVersion": self._resource.api_version,
            "kind": self._resource.kind,
            "metadata": metadata,
        }
        if self._answer.view is View.METADATA:
            obj |= {"apiVersion": _META_VERSION, "kind": "PartialObjectMetadata"}
        elif self._answer.view is View.TABLE:
            obj = {"apiVersion": _META_VERSION, "kind": "Table", "metadata": metadata, "rows": []}
        return encode({"type": "BOOKMARK", "object": obj}) + b"\n"

    def many(self, entries: list[Entry], metadata: Object) -> bytes:
        """A list."""
        resource = self._resource
        if self._answer.view is View.TABLE:
            objects = [to_served(self._registry, resource, entry.obj) for entry in entries]
            return self.document(table(resource, objects, metadata, self._include))
        if self._answer.view is View.METADATA:
            items = [partial(entry.obj) for entry in entries]
            kind = "PartialObjectMetadataList"
            return self.document({"apiVersion": _META_VERSION, "items": items, "kind": kind, "metadata": metadata})
        if self._answer.media_type == YAML or not self._plain:
            objects = [to_served(self._registry, resource, entry.obj) for entry in entries]
            head = {"apiVersion": resource.api_version, "kind": f"{resource.kind}List"}
            return self.document({**head, "items": objects, "metadata": metadata})
        items_json = b",".join(entry.raw for entry in entries)
        return b'{"apiVersion":%s,"items":[%s],"kind":%s,"metadata":%s}' % (
            encode(resource.api_version),
            items_json,
            encode(f"{resource.kind}List"),
            encode(metadata),
        )

    def document(self, value: Any) -> bytes:
        if self._answer.media_type == YAML:
            return yaml.safe_dump(value, sort_keys=True).encode()
        return encode(value)

    def _shown(self, obj: Object) -> Object:
        if self._answer.view is View.METADATA:
            return partial(obj)
        served = to_served(self._registry, self._resource, obj)
        if self._answer.view is View.TABLE:
            metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            return table(self._resource, [served], metadata, self._include)
        return served


def partial(obj: Object) -> Object:
    """An object's metadata as an object of its own."""
    return {"apiVersion": _META_VERSION, "kind": "PartialObjectMetadata", "metadata": obj["metadata"]}
