"""Small operations on Kubernetes objects as plain JSON values.

Stored objects are never changed in place: whoever wants to change one clones it first.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

_Json = TypeVar("_Json")
Object = dict[str, Any]
"""A Kubernetes object, as parsed from JSON."""

_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))
_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def now() -> str:
    """The current time, RFC 3339 in seconds with Z, as object metadata has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """An RFC 3339 time with its zone. Raises ValueError for anything else."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def new_uid() -> str:
    return str(uuid.uuid4())


def name_suffix() -> str:
    """Five random characters, as `generateName` appends them."""
    return "".join(secrets.choice(_NAME_ALPHABET) for _ in range(5))


def clone(value: _Json) -> _Json:
    """A deep copy of a JSON value (several times faster than `copy.deepcopy`)."""
    if isinstance(value, dict):
        return cast("_Json", {key: clone(item) for key, item in value.items()})
    if isinstance(value, list):
        return cast("_Json", [clone(item) for item in value])
    return value


def encode(value: Any) -> bytes:
    """JSON with sorted keys, as an API server sends objects."""
    return _ENCODER.encode(value).encode()


def lookup(value: Any, *keys: str) -> Any:
    """The value under nested keys, or None where one is missing or no object."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def name_of(obj: Object) -> str:
    return obj["metadata"].get("name", "")


def namespace_of(obj: Object) -> str:
    """Its namespace, "" for a cluster-scoped object."""
    return obj["metadata"].get("namespace", "")


def owner_uids(obj: Object) -> Iterator[str]:
    return (owner["uid"] for owner in obj["metadata"].get("ownerReferences") or ())


def condition(obj: Object, condition_type: str) -> Object | None:
    """The entry of `status.conditions` with this type."""
    conditions = lookup(obj, "status", "conditions") or []
    return next((c for c in conditions if c.get("type") == condition_type), None)
