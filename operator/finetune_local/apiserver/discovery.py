"""Discovery: which groups, versions and kinds there are. One document each, and all at once where asked for."""

from __future__ import annotations

from typing import Any

from finetune_local.apiserver.objects import Object
from finetune_local.apiserver.resources import Registry, Resource

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

_PARTS = {
    "log": (("get",), ("", "v1", "Pod")),
    "binding": (("create",), ("", "v1", "Binding")),
    "eviction": (("create",), ("policy", "v1", "Eviction")),
    "token": (("create",), ("authentication.k8s.io", "v1", "TokenRequest")),
    "finalize": (("update",), ("", "v1", "Namespace")),
}
_STATUS_VERBS = ("get", "patch", "update")

VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.2+finetune-local",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
"""What `/version` says: the server whose behaviour this one follows."""


def core_versions(host: str) -> Object:
    """`/api`."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}]
    return {"kind": "APIVersions", "serverAddressByClientCIDRs": addresses, "versions": ["v1"]}


def groups(registry: Registry) -> Object:
    """`/apis`."""
    listed = [group(name, versions) for name, versions in registry.versions().items() if name]
    return {"apiVersion": "v1", "groups": listed, "kind": "APIGroupList"}


def group(name: str, versions: list[str]) -> Object:
    """`/apis/<group>`, less its own kind."""
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "preferredVersion": entries[0], "versions": entries}


def resource_list(registry: Registry, group_name: str, version: str) -> Object | None:
    """`/apis/<group>/<version>` or `/api/v1`; None where that is not served."""
    found = registry.in_version(group_name, version)
    if not found:
        return None
    return {
        "apiVersion": "v1",
        "groupVersion": found[0].api_version,
        "kind": "APIResourceList",
        "resources": [entry for resource in found for entry in _entries(resource)],
    }


def _entries(resource: Resource) -> list[Object]:
    entry: Object = {
        "kind": resource.kind,
        "name": resource.plural,
        "namespaced": resource.namespaced,
        "singularName": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    entries = [entry]
    for part in sorted(resource.subresources):
        verbs, kind = _part(resource, part)
        sub: Object = {
            "kind": kind[2],
            "name": f"{resource.plural}/{part}",
            "namespaced": resource.namespaced,
            "singularName": "",
            "verbs": list(verbs),
        }
        if kind[:2] != (resource.group, resource.version):
            sub |= {"group": kind[0], "version": kind[1]}
        entries.append(sub)
    return entries


def _part(resource: Resource, part: str) -> tuple[tuple[str, ...], tuple[str, str, str]]:
    return _PARTS.get(part, (_STATUS_VERBS, (resource.group, resource.version, resource.kind)))


def aggregated(registry: Registry, *, core: bool) -> Object:
    """All groups with all their kinds: `/api` (core) or `/apis` for clients that accept it."""
    items = []
    for name, versions in registry.versions().items():
        if bool(name) is core:
            continue
        items.append(
            {
                "metadata": {"name": name} if name else {},
                "versions": [
                    {
                        "freshness": "Current",
                        "resources": [_described(r) for r in registry.in_version(name, version)],
                        "version": version,
                    }
                    for version in versions
                ],
            }
        )
    return {
        "apiVersion": "apidiscovery.k8s.io/v2",
        "items": items,
        "kind": "APIGroupDiscoveryList",
        "metadata": {},
    }


def _kind(group_name: str, version: str, kind: str) -> dict[str, str]:
    return {"group": group_name, "kind": kind, "version": version}


def _described(resource: Resource) -> dict[str, Any]:
    parts = []
    for part in sorted(resource.subresources):
        verbs, kind = _part(resource, part)
        parts.append({"responseKind": _kind(*kind), "subresource": part, "verbs": list(verbs)})
    described: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": _kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        described["shortNames"] = list(resource.short_names)
    if resource.categories:
        described["categories"] = list(resource.categories)
    if parts:
        described["subresources"] = parts
    return described
