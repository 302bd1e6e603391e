"""From a URL to what it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_local.apiserver.resources import Registry, Resource

_METHODS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_TRUE = ("1", "t", "T", "true", "TRUE", "True")


@dataclass(frozen=True, slots=True)
class Route:
    """A request for a resource. `verb` is Kubernetes' own, as RBAC rules name it."""

    verb: str
    resource: Resource
    namespace: str
    name: str
    subresource: str


def is_true(text: str | None) -> bool:
    """A boolean query parameter, as Go parses it."""
    return text in _TRUE


def parse_path(registry: Registry, method: str, path: str, query: Mapping[str, str]) -> Route | None:
    """The resource request that a path stands for, None where it is none."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    # `/namespaces/x` is the Namespace itself, `/namespaces/x/pods` what lies within it.
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = registry.find(group, version, rest[0])
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        return None
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and subresource not in resource.subresources:
        return None
    if name and resource.namespaced and not namespace:
        return None
    return Route(_verb(method, name, query), resource, namespace, name, subresource)


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method in ("GET", "HEAD"):
        if is_true(query.get("watch")) and not name:
            return "watch"
        return "get" if name else "list"
    if method == "DELETE":
        return "delete" if name else "deletecollection"
    return _METHODS.get(method, method.lower())
