"""A small asynchronous Kubernetes client that speaks plain JSON objects.

No typed models: a local cluster moves thousands of objects, and its controllers read few of their fields. It works
against any API server that takes the given headers; `watch` is the raw stream, `informer.Informer` the cache on it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

Object = dict[str, Any]
Answer = TypeVar("Answer")

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"

# How long one watch lasts before the server ends it and the client asks again from where it stopped.
WATCH_SECONDS = 300
# Seconds between tries while the server is away: it is on this machine, and back at once when it is back.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=5, sock_read=WATCH_SECONDS + 30)


@dataclass(frozen=True)
class Resource:
    """One kind of object, as its address names it: `api_version` is `v1` or `group/version`."""

    api_version: str
    plural: str
    kind: str

    def path(self, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
        """The address on the server; without `namespace` that of all namespaces, or of a cluster-wide object."""
        parts = ["/api" if "/" not in self.api_version else "/apis", self.api_version]
        if namespace:
            parts += ["namespaces", namespace]
        parts += [self.plural, *(part for part in (name, sub) if part)]
        return "/".join(parts)


PODS = Resource("v1", "pods", "Pod")
NODES = Resource("v1", "nodes", "Node")
EVENTS = Resource("v1", "events", "Event")
SECRETS = Resource("v1", "secrets", "Secret")
CONFIG_MAPS = Resource("v1", "configmaps", "ConfigMap")
NAMESPACES = Resource("v1", "namespaces", "Namespace")
CLAIMS = Resource("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts", "ServiceAccount")
JOBS = Resource("batch/v1", "jobs", "Job")


class ApiError(Exception):
    """The server refused: its HTTP status, its `reason` (NotFound, Conflict, …) and message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message

    @property
    def passing(self) -> bool:
        """Whether the same request may well succeed a little later."""
        return self.status >= 500 or self.status == 429


def may_pass(error: Exception) -> bool:
    """Whether `error` speaks of a server that is away or busy, not of a request that is wrong."""
    if isinstance(error, ApiError):
        return error.passing
    return isinstance(error, aiohttp.ClientError | OSError | TimeoutError)


class ApiClient:
    """Requests to the API server at `url`. Use as an async context manager, or call `close`."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = dict(headers or {})
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, **query: str) -> Object:
        """One object or list. Raises ApiError, or an aiohttp error where the server is away; as do all below."""
        return await self._request("GET", path, query=query)

    async def create(self, path: str, body: Object) -> Object:
        """POST `body`; the object as the server stored it."""
        return await self._request("POST", path, body=body)

    async def replace(self, path: str, body: Object) -> Object:
        """PUT `body`: refused with 409 unless its resourceVersion is still the present one."""
        return await self._request("PUT", path, body=body)

    async def patch(self, path: str, body: Object | list[Object], kind: str = MERGE) -> Object:
        """PATCH with `body`, in the way that the content type `kind` names."""
        return await self._request("PATCH", path, body=body, content_type=kind)

    async def delete(
        self,
        path: str,
        *,
        uid: str | None = None,
        grace: int | None = None,
        propagation: str | None = None,
    ) -> Object:
        """DELETE: only the object with `uid` where one is given; `grace` in seconds."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        if propagation is not None:
            body["propagationPolicy"] = propagation
        return await self._request("DELETE", path, body=body)

    async def watch(self, path: str, version: str, **query: str) -> AsyncIterator[tuple[str, Object]]:
        """(type, object) of every change after resourceVersion `version`, until the server ends the stream.

        Bookmarks are among them. Raises ApiError 410 where the server no longer knows `version`.
        """
        parameters = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        session = self._open()
        async with session.get(self.url + path, params=parameters, timeout=WATCH_TIMEOUT) as response:
            await _refuse_errors(response)
            async for line in _lines(response.content):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error(event["object"].get("code", 500), event["object"])
                yield event["type"], event["object"]

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Watches hold a connection each: a limit would starve the requests beside them.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers={"Accept": "application/json", **self._headers},
                timeout=REQUEST_TIMEOUT,
                trust_env=False,
            )
        return self._session

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Object | list[Object] | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {} if body is None else {"Content-Type": content_type}
        session = self._open()
        async with session.request(
            method, self.url + path, data=data, headers=headers, params=query or None
        ) as response:
            await _refuse_errors(response)
            return json.loads(await response.read())


async def wait_ready(client: ApiClient, *, seconds: float = 20.0, path: str = "/version") -> None:
    """Return once the server answers. Raises TimeoutError naming its URL after `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            await client.get(path)
        except Exception as error:
            if not may_pass(error):
                raise
            if loop.time() > deadline:
                raise TimeoutError(f"the API server at {client.url} did not answer in {seconds:g} s") from error
            await asyncio.sleep(0.02)
        else:
            return


async def persist(request: Callable[[], Awaitable[Answer]]) -> Answer:
    """The answer to `request`, asked again while the server is away. Raises what will not pass by waiting."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await request()
        except Exception as error:
            if not may_pass(error):
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def uid_of(item: Object) -> str:
    """The object's uid."""
    return item["metadata"]["uid"]


def name_of(item: Object) -> str:
    """The object's `namespace/name`, or its name where it lies in no namespace."""
    metadata = item["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else metadata["name"]


async def _refuse_errors(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        status = json.loads(text)
    except ValueError:
        status = {"message": text[:500]}
    raise _error(response.status, status)


def _error(code: int, status: Object) -> ApiError:
    return ApiError(code, status.get("reason") or "Unknown", status.get("message") or "no message")


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: the reader's own line iteration refuses those beyond its buffer."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
