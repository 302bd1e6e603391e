"""Which objects of a kind a list or watch is about."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_local.apiserver.errors import bad_request, expired
from finetune_local.apiserver.objects import Object
from finetune_local.apiserver.resources import Resource
from finetune_local.apiserver.selectors import (
    FieldSelector,
    LabelSelector,
    parse_field_selector,
    parse_label_selector,
)
from finetune_local.apiserver.store import Entry, Store


@dataclass(frozen=True, slots=True)
class Selection:
    """A bucket, narrowed by namespace and selectors. An empty namespace means all of them."""

    bucket: str
    namespace: str = ""
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None

    @classmethod
    def parse(cls, resource: Resource, namespace: str, query: Mapping[str, str]) -> Selection:
        """From a request's query. Raises a 400 for selectors that cannot be read."""
        labels, fields = query.get("labelSelector"), query.get("fieldSelector")
        return cls(
            resource.bucket,
            namespace,
            parse_label_selector(labels) if labels else None,
            parse_field_selector(fields, resource) if fields else None,
        )

    def matches(self, entry: Entry) -> bool:
        if self.namespace and entry.key[0] != self.namespace:
            return False
        if self.labels is not None and not self.labels.matches(entry.obj):
            return False
        return self.fields is None or self.fields.matches(entry.obj)

    def entries(self, store: Store) -> list[Entry]:
        """The selected objects, sorted by namespace and name."""
        name = self.fields.name if self.fields else None
        namespace = self.namespace or ((self.fields.namespace or "") if self.fields else "")
        if name is not None and namespace:
            entry = store.get(self.bucket, namespace, name)
            found = [entry] if entry else []
        else:
            found = store.entries(self.bucket, namespace)
        if self.labels is None and self.fields is None:
            return found
        return [entry for entry in found if self.matches(entry)]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list and the metadata that leads to the next."""

    entries: list[Entry]
    metadata: Object


def page(store: Store, selection: Selection, query: Mapping[str, str]) -> Page:
    """The objects that a list request asks for.

    The next page starts after the last object of this one as things are then; unlike a real server's, the pages are
    not of one instant. Raises a 400 for a limit or token that is none.
    """
    try:
        limit = int(query.get("limit") or 0)
    except ValueError as error:
        raise bad_request(f"invalid limit: {error}") from error
    entries = selection.entries(store)
    token = query.get("continue")
    if token:
        after = _parse_token(token)
        entries = [entry for entry in entries if list(entry.key) > after]
    metadata: Object = {"resourceVersion": str(store.revision)}
    if 0 < limit < len(entries):
        metadata["continue"] = _token(entries[limit - 1])
        if selection.labels is None and selection.fields is None:
            metadata["remainingItemCount"] = len(entries) - limit
        entries = entries[:limit]
    return Page(entries, metadata)


def _token(entry: Entry) -> str:
    return base64.urlsafe_b64encode(json.dumps(entry.key).encode()).rstrip(b"=").decode()


def _parse_token(token: str) -> list[str]:
    try:
        key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, binascii.Error) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
    if not (isinstance(key, list) and len(key) == 2 and all(isinstance(part, str) for part in key)):
        raise expired("the provided continue parameter is too old or was given by another server")
    return key
