"""OpenAPI documents: enough for `kubectl apply`, `kubectl explain` and their like."""

from __future__ import annotations

import hashlib
from typing import Any

from finetune_local.apiserver.objects import Object, encode
from finetune_local.apiserver.resources import Registry, Resource
from finetune_local.apiserver.schemas.builtin import REF, definitions

_V3_REF = "#/components/schemas/"
_INFO = {"title": "Kubernetes", "version": "v1.36.2"}
_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")
_PATCHES = ("application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json")
_STRATEGIC = "application/strategic-merge-patch+json"


class OpenApi:
    """The documents of a registry. Each is made when it is first asked for after a change of the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._revision = -1
        self._documents: dict[str, bytes] = {}

    def v2(self) -> bytes:
        """`/openapi/v2`: everything in one document."""
        return self._cached("v2", self._v2)

    def index(self) -> bytes:
        """`/openapi/v3`: where the documents of the groups are. The URLs change with their content."""
        return self._cached("v3", self._index)

    def v3(self, path: str) -> bytes | None:
        """`/openapi/v3/<path>`: one group's version; None where that is not served."""
        if path not in self._group_paths():
            return None
        return self._cached(f"v3/{path}", lambda: self._v3(path))

    def _cached(self, key: str, make: Any) -> bytes:
        if self._revision != self._registry.revision:
            self._documents.clear()
            self._revision = self._registry.revision
        if key not in self._documents:
            self._documents[key] = encode(make())
        return self._documents[key]

    def _group_paths(self) -> dict[str, list[Resource]]:
        paths: dict[str, list[Resource]] = {}
        for resource in self._registry:
            paths.setdefault(resource.path.strip("/"), []).append(resource)
        return paths

    def _index(self) -> Object:
        paths = {}
        for path, resources in self._group_paths().items():
            marks = [resource.kind for resource in resources]
            schemas = [resource.schema for resource in resources if resource.custom]
            digest = hashlib.sha256(encode([marks, schemas])).hexdigest()[:32]
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
        return {"paths": paths}

    def _v3(self, path: str) -> Object:
        resources = self._group_paths()[path]
        schemas: dict[str, Any] = {}
        for resource in resources:
            _collect(_definition(resource), _name(resource), schemas)
        paths: dict[str, Any] = {}
        for resource in resources:
            paths |= _paths(resource, _V3_REF)
        return {
            "components": {"schemas": {name: _as_v3(schema) for name, schema in schemas.items()}},
            "info": _INFO,
            "openapi": "3.0.0",
            "paths": paths,
        }

    def _v2(self) -> Object:
        found = dict(definitions())
        paths: dict[str, Any] = {}
        for resource in self._registry:
            if resource.custom:
                found[_name(resource)] = _definition(resource)
            paths |= _paths(resource, REF)
        return {"definitions": found, "info": _INFO, "paths": paths, "swagger": "2.0"}


def _name(resource: Resource) -> str:
    """The name of a kind's definition."""
    kinds = (resource.schema or {}).get("x-kubernetes-group-version-kind")
    if kinds and not resource.custom:
        return next(name for name, schema in definitions().items() if schema is resource.schema)
    reverse = ".".join(reversed(resource.group.split(".")))
    return f"{reverse}.{resource.version}.{resource.kind}"


def _definition(resource: Resource) -> dict[str, Any]:
    kind = {"group": resource.group, "kind": resource.kind, "version": resource.version}
    return {**(resource.schema or {"type": "object"}), "x-kubernetes-group-version-kind": [kind]}


def _collect(schema: Any, name: str, found: dict[str, Any]) -> None:
    """Add a definition and all that it refers to."""
    if name in found:
        return
    found[name] = schema
    for reference in _references(schema):
        _collect(definitions()[reference], reference, found)


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [reference for item in schema for reference in _references(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"].removeprefix(REF)] if isinstance(schema.get("$ref"), str) else []
    return own + [reference for item in schema.values() for reference in _references(item)]


def _as_v3(schema: Any) -> Any:
    """References of OpenAPI v3; what stands beside one keeps its place through `allOf`."""
    if isinstance(schema, list):
        return [_as_v3(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = {"$ref": _V3_REF + reference.removeprefix(REF)}
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**beside, "allOf": [target]} if beside else target
    return {key: _as_v3(value) for key, value in schema.items()}


def _paths(resource: Resource, ref: str) -> dict[str, Any]:
    scope = f"{resource.path}/namespaces/{{namespace}}" if resource.namespaced else resource.path
    collection, item = f"{scope}/{resource.plural}", f"{scope}/{resource.plural}/{{name}}"
    paths = {collection: _operations(resource, ref, {"get": "list", "post": "create"})}
    if resource.stored:
        verbs = {"get": "get", "put": "update", "patch": "patch", "delete": "delete"}
        paths[item] = _operations(resource, ref, verbs)
    return paths


def _operations(resource: Resource, ref: str, verbs: dict[str, str]) -> dict[str, Any]:
    return {method: _operation(resource, ref, method, verb) for method, verb in verbs.items() if verb in resource.verbs}


def _operation(resource: Resource, ref: str, method: str, verb: str) -> dict[str, Any]:
    schema = {"$ref": ref + _name(resource)}
    v3 = ref == _V3_REF
    content = {"application/json": {"schema": schema}}
    operation: dict[str, Any] = {
        "responses": {"200": {"description": "OK", **({"content": content} if v3 else {"schema": schema})}},
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": {
            "group": resource.group,
            "kind": resource.kind,
            "version": resource.version,
        },
    }
    if method in ("post", "put", "patch"):
        kind = {"schema": {"type": "string"}} if v3 else {"type": "string"}
        operation["parameters"] = [{"in": "query", "name": name, **kind} for name in _WRITE_PARAMETERS]
    if method == "patch":
        types = _PATCHES if resource.custom else (*_PATCHES, _STRATEGIC)
        if v3:
            operation["requestBody"] = {"content": {name: {"schema": {"type": "object"}} for name in types}}
        else:
            operation["consumes"] = list(types)
    return operation
