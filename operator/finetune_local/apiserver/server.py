"""The server: its life, and the way of a request through it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from finetune_local.apiserver import crds, discovery
from finetune_local.apiserver.contents import ContainerController
from finetune_local.apiserver.deletion import Deleter
from finetune_local.apiserver.errors import ApiError, method_not_allowed, no_such_path
from finetune_local.apiserver.garbage import GarbageCollector
from finetune_local.apiserver.handlers.context import Call, Services, answer
from finetune_local.apiserver.handlers.resources import ResourceHandlers
from finetune_local.apiserver.handlers.reviews import ReviewHandlers
from finetune_local.apiserver.handlers.subresources import SubresourceHandlers
from finetune_local.apiserver.journal import SqliteJournal
from finetune_local.apiserver.logs import PodLogs
from finetune_local.apiserver.objects import encode
from finetune_local.apiserver.openapi import OpenApi
from finetune_local.apiserver.protobuf import openapi as protobuf_openapi
from finetune_local.apiserver.rbac import Attributes, Authorizer
from finetune_local.apiserver.registry import builtin_registry
from finetune_local.apiserver.routing import Route, parse_path
from finetune_local.apiserver.store import Change, Store
from finetune_local.apiserver.tokens import Tokens, User, acting_for
from finetune_local.apiserver.writes import NAMESPACES, WriteOptions, Writer

_log = logging.getLogger(__name__)
_HEALTH = ("/healthz", "/livez", "/readyz")
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_MAX_BODY = 3 * 1024 * 1024

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class ApiServer:
    """A Kubernetes API server on loopback, with a garbage collector and a namespace controller.

    `logs_dir` is where the node writes the pods' logs. With `data_dir` everything is kept in a file there, and a
    server that is started again on it, after whatever end, serves the same objects, on the same port unless another
    is asked for. A request without credentials is an administrator's; one with a token of `token_for` is that
    service account's, and may do what roles and bindings say.

    Usage: `async with ApiServer(logs_dir=Path("logs")) as server: ... server.url ...`
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, logs_dir: Path, data_dir: Path | None = None) -> None:
        self._host = host
        self._port = port
        self._journal = SqliteJournal(data_dir / "apiserver.sqlite") if data_dir else None
        self._registry = builtin_registry()
        self._store = Store(self._journal)
        for entry in self._store.entries(crds.BUCKET):
            crds.serve(self._registry, entry.obj)
        self._store.subscribe(self._follow_definitions)
        writer, deleter = Writer(self._store, self._registry), Deleter(self._store)
        key = self._journal.secret("token-key") if self._journal else secrets.token_hex(32)
        self._services = Services(
            self._store,
            self._registry,
            writer,
            deleter,
            PodLogs(self._store, logs_dir),
            Tokens(self._store, key),
            Authorizer(self._store),
        )
        self._collector = GarbageCollector(self._store, self._registry, writer, deleter)
        self._containers = ContainerController(self._store, self._registry, writer, deleter)
        self._openapi = OpenApi(self._registry)
        self._resources = ResourceHandlers(self._services)
        self._subresources = SubresourceHandlers(self._services)
        self._reviews = ReviewHandlers(self._services)
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """Where the server listens, `http://127.0.0.1:<port>`."""
        return f"http://{self._host}:{self._port}"

    def kubeconfig(self, namespace: str = "default", token: str | None = None) -> dict[str, Any]:
        """A kubeconfig for this server, as an object: the administrator's, or that of a token."""
        user = {"token": token} if token else {}
        context = {"cluster": "local", "namespace": namespace, "user": "local"}
        return {
            "apiVersion": "v1",
            "clusters": [{"cluster": {"server": self.url}, "name": "local"}],
            "contexts": [{"context": context, "name": "local"}],
            "current-context": "local",
            "kind": "Config",
            "users": [{"name": "local", "user": user}],
        }

    def token_for(self, namespace: str, service_account: str, seconds: int = 3600) -> str:
        """A bearer token of a service account. Raises KeyError where the account does not exist."""
        return self._services.tokens.issue(namespace, service_account, seconds)[0]

    async def __aenter__(self) -> Self:
        self._prepare_namespaces()
        application = web.Application(client_max_size=_MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._dispatch)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await self._runner.setup()
        await self._listen(self._runner)
        self._tasks = [
            asyncio.create_task(self._collector.run(), name="garbage-collector"),
            asyncio.create_task(self._containers.run(), name="namespace-controller"),
        ]
        for task in self._tasks:
            task.add_done_callback(_report_end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        if self._journal is not None:
            self._journal.close()

    async def _listen(self, runner: web.AppRunner) -> None:
        known = self._journal.fact("port") if self._journal else None
        port = self._port or int(known or 0)
        site = web.TCPSite(runner, self._host, port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            hint = f"; it is the port of the last start on this data folder ({error})" if known else f" ({error})"
            raise OSError(f"the API server cannot listen on {self._host}:{port}{hint}") from error
        self._port = runner.addresses[0][1]
        if self._journal is not None:
            self._journal.set_fact("port", str(self._port))

    def _prepare_namespaces(self) -> None:
        resource = self._registry.find("", "v1", NAMESPACES)
        if resource is None:
            raise RuntimeError("the kind Namespace is not registered")
        for name in _NAMESPACES:
            if self._store.get(NAMESPACES, "", name) is None:
                body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                self._services.writer.create(resource, "", body, WriteOptions("kube-apiserver"))
        for entry in self._store.entries(NAMESPACES):
            self._containers.add_default_account(entry.key[1])

    def _follow_definitions(self, change: Change) -> None:
        """Serve what definitions say, from the very write on that says it."""
        if change.entry.bucket == crds.BUCKET:
            if change.type == "DELETED":
                crds.stop_serving(self._registry, change.entry.obj)
            else:
                crds.serve(self._registry, change.entry.obj)

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._respond(request)
        except ApiError as error:
            return answer(encode(error.status()), error.code)
        except web.HTTPRequestEntityTooLarge:
            text = f"Request entity too large: limit is {_MAX_BODY}"
            return answer(encode(ApiError(413, "RequestEntityTooLarge", text).status()), 413)
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception as error:
            _log.exception("%s %s", request.method, request.path_qs)
            failure = ApiError(500, "InternalError", f"Internal error occurred: {type(error).__name__}: {error}")
            return answer(encode(failure.status()), 500)

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        user = self._user(request)
        route = parse_path(self._registry, request.method, request.path, request.query)
        if route is None:
            verb = "get" if request.method in ("GET", "HEAD") else request.method.lower()
            self._services.authorizer.check(user, Attributes(verb, path=request.path))
            return self._document(request)
        self._services.authorizer.check(user, _attributes(route))
        handler = self._handler(route)
        if handler is None:
            raise method_not_allowed(request.method)
        return await handler(Call(request, route, user))

    def _user(self, request: web.Request) -> User:
        """Who asks: the bearer of the token, or whom the bearer acts for (`kubectl --as`)."""
        user = self._services.tokens.user(request.headers.get("Authorization", ""))
        name = request.headers.get("Impersonate-User")
        if not name:
            return user
        groups = tuple(request.headers.getall("Impersonate-Group", []))
        for kind, value in (("users", name), *(("groups", group) for group in groups)):
            self._services.authorizer.check(user, Attributes("impersonate", resource=kind, name=value))
        return acting_for(name, groups)

    def _handler(self, route: Route) -> Handler | None:
        if route.subresource:
            return self._part_handler(route)
        if route.verb not in route.resource.verbs:
            return None
        if not route.resource.stored:
            return self._reviews.review
        of_one = route.verb in ("get", "update", "patch", "delete")
        placed = route.namespace or not route.resource.namespaced or route.verb in ("list", "watch")
        if of_one is not bool(route.name) or not placed:
            return None
        return getattr(self._resources, route.verb)

    def _part_handler(self, route: Route) -> Handler | None:
        special: dict[tuple[str, str], Handler] = {
            ("log", "get"): self._subresources.log,
            ("binding", "create"): self._subresources.binding,
            ("eviction", "create"): self._subresources.eviction,
            ("token", "create"): self._subresources.token,
        }
        if route.subresource in ("status", "finalize", "ephemeralcontainers"):
            plain: dict[str, Handler] = {
                "get": self._resources.get,
                "update": self._resources.update,
                "patch": self._resources.patch,
            }
            return plain.get(route.verb)
        return special.get((route.subresource, route.verb))

    def _document(self, request: web.Request) -> web.StreamResponse:
        """What is no resource: health, version, discovery, OpenAPI."""
        path = request.path.rstrip("/") or "/"
        if path.startswith(_HEALTH):
            return web.Response(text="ok")
        if path == "/version":
            return answer(encode(discovery.VERSION))
        found = self._described(request, path) or self._discovered(request, path)
        if found is None:
            raise no_such_path()
        return found

    def _described(self, request: web.Request, path: str) -> web.Response | None:
        """OpenAPI documents."""
        if path == "/openapi/v2":
            if protobuf_openapi.ACCEPTED in request.headers.get("Accept", ""):
                document = protobuf_openapi.document(self._registry)
                return answer(document, media_type=protobuf_openapi.MEDIA_TYPE)
            return answer(self._openapi.v2())
        if path == "/openapi/v3":
            return answer(self._openapi.index())
        found = self._openapi.v3(path.removeprefix("/openapi/v3/"))
        return answer(found) if found is not None else None

    def _discovered(self, request: web.Request, path: str) -> web.Response | None:
        if path in ("/api", "/apis"):
            if "as=APIGroupDiscoveryList" in request.headers.get("Accept", ""):
                document = discovery.aggregated(self._registry, core=path == "/api")
                return answer(encode(document), media_type=discovery.AGGREGATED)
            host = request.headers.get("Host", "")
            plain = discovery.core_versions(host) if path == "/api" else discovery.groups(self._registry)
            return answer(encode(plain))
        parts = path.strip("/").split("/")
        versions = self._registry.versions()
        if parts[0] == "apis" and len(parts) == 2 and parts[1] in versions:
            group = discovery.group(parts[1], versions[parts[1]])
            return answer(encode({"apiVersion": "v1", "kind": "APIGroup", **group}))
        found = None
        if parts[0] == "apis" and len(parts) == 3:
            found = discovery.resource_list(self._registry, parts[1], parts[2])
        elif parts[0] == "api" and len(parts) == 2:
            found = discovery.resource_list(self._registry, "", parts[1])
        return answer(encode(found)) if found is not None else None


def _report_end(task: asyncio.Task[None]) -> None:
    """Say so where a controller ends before the server does."""
    if not task.cancelled():
        _log.error("the %s has ended", task.get_name(), exc_info=task.exception())


def _attributes(route: Route) -> Attributes:
    resource = route.resource
    return Attributes(route.verb, resource.group, resource.plural, route.subresource, route.namespace, route.name)
