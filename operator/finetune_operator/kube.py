"""The few calls that the operator makes to the API server, as JSON in and JSON out.

On the official client's own transport and configuration; its typed models would cost a conversion both ways and
refuse objects that a newer server sends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import client, config

from finetune_api import API_VERSION, PLURAL, POLICY_PLURAL

Body = dict[str, Any]
logger = logging.getLogger(__name__)

PATHS = {
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "Namespace": "/api/v1/namespaces",
    "FinetunePolicy": f"/apis/{API_VERSION}/{POLICY_PLURAL}",
    "FinetuneJob": f"/apis/{API_VERSION}/namespaces/{{namespace}}/{PLURAL}",
}

NAMESPACE_PART = "/namespaces/{namespace}"
# Objects per answer of a list.
CHUNK = 500
# How often a request is sent that the API server is too busy for, and for how long at most it is obeyed when it says
# when to come again; after that the caller's own back-off holds.
TRIES, LONGEST_WAIT = 4, 10.0
TOO_MANY_REQUESTS = 429
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class ApiError(Exception):
    """The API server's refusal: its HTTP status, its reason and its words."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def passing(self) -> bool:
        """Whether the server could not answer now, rather than would not."""
        return self.status >= 500 or self.status == TOO_MANY_REQUESTS


def may_pass(error: Exception) -> bool:
    """Whether `error` speaks of a server that is away or busy, not of a request that is wrong."""
    return error.passing if isinstance(error, ApiError) else isinstance(error, aiohttp.ClientError | OSError)


class Kube:
    """An API server, as the operator uses it. `count` is told the verb and the code of every answer."""

    def __init__(self, api: client.ApiClient, timeout: float, count: Callable[[str, int], None]) -> None:
        self.api = api
        self._count = count
        self._timeout = timeout

    @classmethod
    async def connect(cls, request_timeout: float, count: Callable[[str, int], None]) -> Kube:
        """By KUBECONFIG or the default kubeconfig where there is one, else as a pod's service account."""
        configuration = client.Configuration()
        path = _kubeconfig()
        if path:
            await config.load_kube_config(config_file=path, client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
        # aiohttp would look for proxies and for ~/.netrc anew at each request, in a thread.
        configuration.client_session_kwargs = {"trust_env": bool(getproxies())}
        return cls(client.ApiClient(configuration), request_timeout, count)

    async def close(self) -> None:
        """Close the connections."""
        await self.api.close()

    async def create(self, manifest: Mapping[str, Any]) -> Body:
        """Create an object; raises ApiError."""
        path = PATHS[manifest["kind"]].format(namespace=manifest["metadata"]["namespace"])
        return await self._json("POST", path, dict(manifest))

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """An object; None where it is not there."""
        try:
            return await self._json("GET", f"{PATHS[kind].format(namespace=namespace)}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def probe(self, kind: str) -> None:
        """List one object of a kind that has no namespace; raises ApiError where that may not be."""
        await self._json("GET", f"{PATHS[kind]}?limit=1")

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete a Job after its pods, if it is still the one with this uid.

        The API's own default would leave the pods, and the GPUs they hold, to themselves.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        try:
            await self._json("DELETE", f"{PATHS['Job'].format(namespace=namespace)}/{name}", body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def patch_status(self, namespace: str, name: str, status: Body, resource_version: str) -> Body:
        """Merge `status` into a FinetuneJob's, if it is still at `resource_version`; raises ApiError 409 if not."""
        path = f"{PATHS['FinetuneJob'].format(namespace=namespace)}/{name}/status"
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        return await self._json("PATCH", path, body, content_type="application/merge-patch+json")

    async def patch_event(self, namespace: str, name: str, changes: Body) -> Body:
        """Merge `changes` into an Event."""
        path = f"{PATHS['Event'].format(namespace=namespace)}/{name}"
        return await self._json("PATCH", path, changes, content_type="application/merge-patch+json")

    async def versions(self, kind: str, namespace: str, selector: str) -> dict[str, int]:
        """The resourceVersion of every object of `kind`, by uid; `namespace` empty: of all.

        Metadata only, in chunks.
        """
        # Without a namespace the address has no part for it.
        path = PATHS[kind].format(namespace=namespace) if namespace else PATHS[kind].replace(NAMESPACE_PART, "")
        found: dict[str, int] = {}
        follow = ""
        while True:
            query = urlencode({"limit": CHUNK, "labelSelector": selector, "continue": follow})
            answer = await self._json("GET", f"{path}?{query}", accept=METADATA)
            for item in answer.get("items") or ():
                found[item["metadata"]["uid"]] = int(item["metadata"]["resourceVersion"])
            follow = (answer.get("metadata") or {}).get("continue") or ""
            if not follow:
                return found

    async def preferred_version(self, group: str) -> str | None:
        """The version of an API group that the server prefers; None where it does not know the group."""
        try:
            found = await self._json("GET", f"/apis/{group}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return str((found.get("preferredVersion") or {}).get("version") or "") or None

    async def workloads(self, namespace: str, version: str) -> list[Body]:
        """Kueue's Workloads in a namespace, in chunks."""
        path = f"/apis/kueue.x-k8s.io/{version}/namespaces/{namespace}/workloads"
        found: list[Body] = []
        more = ""
        while True:
            page = await self._json("GET", f"{path}?limit=500{more}")
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            more = f"&continue={quote(token)}"

    async def log_tail(self, namespace: str, pod: str, container: str, lines: int, limit: int) -> str:
        """The last lines of a container's log."""
        query = f"container={container}&tailLines={lines}&limitBytes={limit}"
        path = f"{PATHS['Pod'].format(namespace=namespace)}/{pod}/log?{query}"
        return (await self._request("GET", path, None, None, "*/*")).decode(errors="replace")

    async def _json(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        content_type: str | None = None,
        accept: str = "application/json",
    ) -> Body:
        found = json.loads(await self._request(method, path, body, content_type, accept))
        if not isinstance(found, dict):
            raise ApiError(502, "BadResponse", f"{method} {path} answered no object")
        return found

    async def _request(self, method: str, path: str, body: Body | None, content_type: str | None, accept: str) -> bytes:
        """The answer; a server that is too busy is asked again when it says so. Raises ApiError."""
        for left in reversed(range(TRIES)):
            status, data, wait = await self._send(method, path, body, content_type, accept)
            self._count("LIST" if accept == METADATA else method, status)
            if 200 <= status < 300:
                return data
            if status != TOO_MANY_REQUESTS or not left:
                break
            logger.info("The API server is too busy for %s %s; again in %.0f s.", method, path, wait)
            await asyncio.sleep(wait)
        raise _error(status, data)

    async def _send(
        self, method: str, path: str, body: Body | None, content_type: str | None, accept: str
    ) -> tuple[int, bytes, float]:
        """Status, content, and for how many seconds to leave the server alone."""
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type or "application/json"
        method, url, headers, content, _ = await self.api.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        response = await self.api.call_api(method, url, headers, content, _request_timeout=self._timeout)
        return response.status, await response.read(), _retry_after(response.headers.get("Retry-After"))


def _retry_after(said: str | None) -> float:
    """The header's seconds, within reason; a second where it says none."""
    return min(float(said), LONGEST_WAIT) if said and said.isascii() and said.isdigit() else 1.0


def in_reach() -> bool:
    """Whether there is a kubeconfig or a pod's service account to connect by."""
    return _kubeconfig() is not None or "KUBERNETES_SERVICE_HOST" in os.environ


def _kubeconfig() -> str | None:
    path = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    # Not Path.exists, which raises for a home that is somebody else's.
    return path if os.access(path.split(os.pathsep)[0], os.R_OK) else None


def _error(status: int, data: bytes) -> ApiError:
    try:
        said = json.loads(data)
        return ApiError(status, str(said.get("reason", "")), str(said.get("message", "")))
    except (ValueError, AttributeError):
        return ApiError(status, "Unknown", data[:200].decode(errors="replace"))
