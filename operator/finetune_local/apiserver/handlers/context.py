"""What every handler works with."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from aiohttp import web

from finetune_local.apiserver.conversion import to_stored
from finetune_local.apiserver.deletion import Deleter
from finetune_local.apiserver.errors import bad_request, unsupported_media_type
from finetune_local.apiserver.logs import PodLogs
from finetune_local.apiserver.negotiation import JSON, PROTOBUF, YAML, accepted, decode_object, media_type_of
from finetune_local.apiserver.objects import Object
from finetune_local.apiserver.protobuf import decode_protobuf
from finetune_local.apiserver.rbac import Authorizer
from finetune_local.apiserver.resources import Registry, Resource
from finetune_local.apiserver.routing import Route
from finetune_local.apiserver.store import Store
from finetune_local.apiserver.tokens import Tokens, User
from finetune_local.apiserver.views import Renderer
from finetune_local.apiserver.writes import Target, WriteOptions, Writer

_log = logging.getLogger(__name__)
_VALIDATIONS = ("Ignore", "Strict", "Warn")


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the server."""

    store: Store
    registry: Registry
    writer: Writer
    deleter: Deleter
    logs: PodLogs
    tokens: Tokens
    authorizer: Authorizer


@dataclass(frozen=True, slots=True)
class Call:
    """One request for a resource."""

    request: web.Request
    route: Route
    user: User

    @property
    def resource(self) -> Resource:
        return self.route.resource

    def target(self, registry: Registry) -> Target:
        """What a write is about."""
        route = self.route
        resource = registry.written_as(route.resource)
        return Target(resource, route.namespace, route.name, route.subresource)

    def renderer(self, registry: Registry) -> Renderer:
        """Renders in the form that the client accepts."""
        answer = accepted(self.request.headers.get("Accept", ""))
        include = self.request.query.get("includeObject", "Metadata")
        return Renderer(registry, self.resource, answer, include)

    async def body(self) -> Object:
        """The object in the request's body, as the client sent it."""
        raw = await self.request.read()
        media_type = media_type_of(self.request.headers.get("Content-Type", ""))
        if media_type == PROTOBUF:
            return decode_protobuf(raw)
        if media_type not in (JSON, YAML):
            raise unsupported_media_type((JSON, YAML, PROTOBUF))
        return decode_object(raw, media_type)

    async def object_body(self, registry: Registry) -> Object:
        """The object in the request's body, in the version that is stored."""
        body = await self.body()
        resource = self.resource
        if body.setdefault("apiVersion", resource.api_version) != resource.api_version:
            raise bad_request(
                f"the API version in the data ({body['apiVersion']}) does not match the expected API version "
                f"({resource.api_version})"
            )
        return to_stored(registry, resource, body)

    def write_options(self) -> WriteOptions:
        """Raises a 400 for options that mean nothing."""
        query = self.request.query
        validation = query.get("fieldValidation") or "Warn"
        if validation not in _VALIDATIONS:
            raise bad_request(
                f"fieldValidation: Unsupported value: {validation!r}: supported values: {', '.join(_VALIDATIONS)}"
            )
        agent = self.request.headers.get("User-Agent", "unknown").partition("/")[0]
        manager = query.get("fieldManager") or agent or "unknown"
        return WriteOptions(manager[:128], self.is_dry_run, validation)

    @property
    def is_dry_run(self) -> bool:
        asked = self.request.query.getall("dryRun", [])
        if any(value not in ("", "All") for value in asked):
            raise bad_request(f"invalid dryRun {asked!r}: supported values: All")
        return "All" in asked


async def stream(call: Call, chunks: AsyncIterator[bytes], content_type: str) -> web.StreamResponse:
    """Send what comes as it comes, until it ends or the client goes."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    response.enable_chunked_encoding()
    try:
        await response.prepare(call.request)
        async for data in chunks:
            await response.write(data)
        await response.write_eof()
    except ConnectionResetError:
        _log.debug("%s went away", call.request.remote)
    return response


def answer(body: bytes, status: int = 200, warnings: Iterable[str] = (), media_type: str = JSON) -> web.Response:
    """A response; each warning becomes a `Warning` header, which kubectl prints."""
    response = web.Response(body=body, status=status, headers={"Content-Type": media_type})
    for warning in warnings:
        text = warning.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{text}"')
    return response
