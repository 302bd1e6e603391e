"""Values that pods refer to: keys of Secrets and ConfigMaps, and fields of their own object. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_local.client import CONFIG_MAPS, SECRETS, Object, Resource

Found = Mapping[tuple[Resource, str], Object | None]
SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


class MissingObjectError(Exception):
    """A Secret, ConfigMap or claim, or a key of it, that a pod needs and that is not there (yet)."""

    def __init__(self, resource: Resource, name: str, version: str | None, message: str) -> None:
        super().__init__(message)
        self.resource, self.name, self.version = resource, name, version


@dataclass(frozen=True)
class TokenOf:
    """A token that a pod asks for: whose, for whom, and for how long."""

    account: str
    audience: str
    seconds: int


@dataclass(frozen=True)
class Objects:
    """The objects that a pod refers to, as they were read, None for those that do not exist; and its tokens."""

    namespace: str
    found: Found
    tokens: Mapping[TokenOf, str] = field(default_factory=dict)

    def data(self, resource: Resource, name: str, *, optional: bool | None = None) -> dict[str, bytes]:
        """All keys of a Secret or ConfigMap. Raises MissingObjectError; {} where it may be missing."""
        item = self.found.get((resource, name))
        if item is None:
            if optional:
                return {}
            raise MissingObjectError(resource, name, None, f'{resource.kind.lower()} "{name}" not found')
        return content(item)

    def key(self, resource: Resource, name: str, key: str, *, optional: bool | None = None) -> bytes | None:
        """One key of a Secret or ConfigMap. Raises MissingObjectError; None where it may be missing."""
        data = self.data(resource, name, optional=optional)
        if key in data:
            return data[key]
        if optional:
            return None
        message = f"couldn't find key {key} in {resource.kind} {self.namespace}/{name}"
        raise MissingObjectError(resource, name, self.version(resource, name), message)

    def version(self, resource: Resource, name: str) -> str | None:
        """The resourceVersion that was read."""
        item = self.found.get((resource, name))
        return None if item is None else item["metadata"]["resourceVersion"]


def content(item: Object) -> dict[str, bytes]:
    """The bytes of each key of a Secret or ConfigMap."""
    encoded = {**item.get("binaryData", {}), **(item.get("data", {}) if item.get("kind") == SECRETS.kind else {})}
    plain = item.get("data", {}) if item.get("kind") == CONFIG_MAPS.kind else {}
    return {
        **{key: base64.b64decode(value or "") for key, value in encoded.items()},
        **{key: (value or "").encode() for key, value in plain.items()},
    }


def text_of(value: bytes) -> str:
    """A value as an environment variable holds it."""
    return value.decode(errors="surrogateescape")


def field_value(pod: Object, path: str, node: str, address: str) -> str:
    """The field of the pod that a downward API's fieldPath names. Raises ValueError for one it does not offer."""
    metadata, spec = pod["metadata"], pod["spec"]
    subscript = SUBSCRIPT.fullmatch(path)
    if subscript:
        return metadata.get(subscript[1], {}).get(subscript[2], "")
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = metadata.get(path.partition(".")[2], {})
        return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted(pairs.items()))
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": node,
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": address,
        "status.hostIPs": address,
        "status.podIP": address,
        "status.podIPs": address,
    }
    if path not in simple:
        raise ValueError(f"fieldPath {path!r}: not one of {', '.join(sorted(simple))}, metadata.labels['…']")
    return simple[path]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
