"""Reading and writing stored objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from finetune_local.apiserver.conversion import to_stored
from finetune_local.apiserver.deletion import DeleteOptions
from finetune_local.apiserver.errors import ApiError, bad_request, not_found, unsupported_media_type
from finetune_local.apiserver.handlers.context import Call, Services, answer, stream
from finetune_local.apiserver.negotiation import (
    APPLY_PATCH,
    JSON,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    decode_body,
    media_type_of,
)
from finetune_local.apiserver.objects import Object, clone, encode
from finetune_local.apiserver.patch import json_patch, merge_patch, strategic_merge
from finetune_local.apiserver.routing import is_true
from finetune_local.apiserver.selection import Selection, page
from finetune_local.apiserver.watching import Watch, WatchOptions
from finetune_local.apiserver.writes import Target, Written


class ResourceHandlers:
    """The handlers of the verbs. Each returns the response, or raises ApiError."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, call: Call) -> web.StreamResponse:
        entry = self._services.store.get(call.resource.bucket, call.route.namespace, call.route.name)
        if entry is None:
            raise not_found(call.resource, call.route.name)
        return answer(call.renderer(self._services.registry).entry(entry))

    async def list(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        selection = Selection.parse(call.resource, call.route.namespace, query)
        found = page(self._services.store, selection, query)
        return answer(call.renderer(self._services.registry).many(found.entries, found.metadata))

    async def watch(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        selection = Selection.parse(call.resource, call.route.namespace, query)
        renderer = call.renderer(self._services.registry)
        watch = Watch(self._services.store, selection, renderer, WatchOptions.parse(query))
        return await stream(call, watch.lines(), JSON)

    async def create(self, call: Call) -> web.StreamResponse:
        services = self._services
        body = await call.object_body(services.registry)
        target = call.target(services.registry)
        written = services.writer.create(target.resource, target.namespace, body, call.write_options())
        return self._written(call, written)

    async def update(self, call: Call) -> web.StreamResponse:
        services = self._services
        body = await call.object_body(services.registry)
        target, options = call.target(services.registry), call.write_options()
        exists = services.store.get(call.resource.bucket, target.namespace, target.name)
        if exists is None and not target.subresource and call.resource.bucket == "leases.coordination.k8s.io":
            return self._written(call, services.writer.create(target.resource, target.namespace, body, options))
        return self._written(call, services.writer.update(target, lambda _: body, options))

    async def patch(self, call: Call) -> web.StreamResponse:
        services = self._services
        media_type = media_type_of(call.request.headers.get("Content-Type", ""))
        raw = await call.request.read()
        target, options = call.target(services.registry), call.write_options()
        if media_type == APPLY_PATCH:
            if not call.request.query.get("fieldManager"):
                raise bad_request("PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required "
                                  "for apply patch")  # fmt: skip
            body = to_stored(services.registry, call.resource, _object(decode_body(raw, media_type)))
            force = is_true(call.request.query.get("force"))
            return self._written(call, services.writer.apply(target, body, options, force=force))
        change = _patcher(call, media_type, decode_body(raw, media_type))
        return self._written(call, services.writer.update(target, change, options))

    async def delete(self, call: Call) -> web.StreamResponse:
        options = await _delete_options(call)
        target = call.target(self._services.registry)
        obj, gone = self._services.deleter.delete(target, options)
        if gone and not call.resource.strategy.returns_deleted:
            return answer(encode(_success(target, obj)))
        return answer(call.renderer(self._services.registry).one(obj))

    async def deletecollection(self, call: Call) -> web.StreamResponse:
        services = self._services
        options = await _delete_options(call)
        selection = Selection.parse(call.resource, call.route.namespace, call.request.query)
        entries = selection.entries(services.store)
        for entry in entries:
            services.deleter.delete(Target(call.resource, *entry.key), options)
        metadata = {"resourceVersion": str(services.store.revision)}
        return answer(call.renderer(services.registry).many(entries, metadata))

    def _written(self, call: Call, written: Written) -> web.StreamResponse:
        body = call.renderer(self._services.registry).one(written.obj)
        return answer(body, 201 if written.created else 200, written.warnings)


def _object(body: Any) -> Object:
    if not isinstance(body, dict):
        raise bad_request(f"the patch must be an object, not {type(body).__name__}")
    return body


def _patcher(call: Call, media_type: str, patch: Any) -> Callable[[Object], Object]:
    """The change that a patch describes. Raises a 400 or 415."""
    resource = call.resource
    accepted = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH]
    if not resource.custom:
        accepted.append(STRATEGIC_PATCH)
    if media_type not in accepted:
        raise unsupported_media_type(accepted)
    if media_type == JSON_PATCH:
        # jsonpatch changes lists and objects within the values that it is given.
        return lambda obj: _patched(json_patch(clone(obj), patch))
    body = _object(patch)
    if media_type == MERGE_PATCH:
        return lambda obj: _patched(merge_patch(obj, body))
    return lambda obj: _patched(strategic_merge(obj, body, resource.schema))


def _patched(obj: Any) -> Object:
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise ApiError(422, "Invalid", "the patch leaves no object with metadata", {})
    return obj


async def _delete_options(call: Call) -> DeleteOptions:
    """Options come in the body, the query, or both; the body wins."""
    query = call.request.query
    options: Object = {}
    if "propagationPolicy" in query:
        options["propagationPolicy"] = query["propagationPolicy"]
    if "orphanDependents" in query:
        options["orphanDependents"] = is_true(query["orphanDependents"])
    if "gracePeriodSeconds" in query:
        try:
            options["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
        except ValueError as error:
            raise bad_request(f"invalid gracePeriodSeconds: {error}") from error
    if call.is_dry_run:
        options["dryRun"] = ["All"]
    if call.request.can_read_body:
        options |= await call.body()
    return DeleteOptions.parse(options)


def _success(target: Target, obj: Object) -> Object:
    details = {"kind": target.resource.plural, "name": target.name, "uid": obj["metadata"]["uid"]}
    if target.resource.group:
        details["group"] = target.resource.group
    return {
        "apiVersion": "v1",
        "details": details,
        "kind": "Status",
        "metadata": {},
        "status": "Success",
    }
