"""What the tests share: a small client that shows codes and bodies as they are, objects, and kubectl."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from finetune_local.apiserver import ApiServer

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
WIDGETS = "/apis/acme.io/v1/namespaces/default/widgets"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True)
class Reply:
    code: int
    body: Any
    headers: Any

    @property
    def message(self) -> str:
        return self.body["message"]


class Client:
    """Requests to one server. Methods return the reply, whatever its code."""

    def __init__(self, url: str, session: aiohttp.ClientSession, token: str | None = None) -> None:
        self._url = url
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
    ) -> Reply:
        accept = query.pop("accept", "application/json")
        data = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": content_type, "Accept": accept}
        async with self._session.request(
            method, self._url + path, data=data, params=query, headers=headers
        ) as response:
            raw = await response.read()
            parsed = json.loads(raw) if raw.startswith(b"{") else raw.decode()
            return Reply(response.status, parsed, response.headers)

    async def get(self, path: str, **query: str) -> Reply:
        return await self.request("GET", path, **query)

    async def post(self, path: str, body: Any, **query: str) -> Reply:
        return await self.request("POST", path, body, **query)

    async def put(self, path: str, body: Any, **query: str) -> Reply:
        return await self.request("PUT", path, body, **query)

    async def patch(self, path: str, body: Any, content_type: str = MERGE, **query: str) -> Reply:
        return await self.request("PATCH", path, body, content_type, **query)

    async def delete(self, path: str, body: Any = None, **query: str) -> Reply:
        return await self.request("DELETE", path, body, **query)

    async def apply(self, path: str, body: Any, manager: str = "t", **query: str) -> Reply:
        return await self.patch(path, body, APPLY, fieldManager=manager, **query)

    async def made(self, path: str, body: Any) -> Any:
        """Create an object that must be accepted."""
        reply = await self.post(path, body)
        assert reply.code == 201, reply.body
        return reply.body

    async def watch(self, path: str, events: list[Any], **query: str) -> None:
        """Add a watch's events to `events` until it ends."""
        url = self._url + path
        params = {"watch": "true", **query}
        async with self._session.get(url, params=params, headers=self._headers) as response:
            async for line in response.content:
                events.append(json.loads(line))

    async def gone(self, path: str, seconds: float = 3.0) -> None:
        """Wait until an object does not exist any more."""
        await until(lambda: self.get(path), lambda reply: reply.code == 404, seconds)


async def until(ask: Callable[[], Any], holds: Callable[[Any], bool], seconds: float = 3.0) -> Any:
    """Ask again until the answer is as it should be."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        answer = await ask()
        if holds(answer):
            return answer
        assert asyncio.get_running_loop().time() < end, f"still {answer}"
        await asyncio.sleep(0.02)


def configmap(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "busybox:1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": containers, **spec},
    }


def job(name: str, **spec: Any) -> dict[str, Any]:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "busybox:1"}]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template, **spec},
    }


def definition(schema: dict[str, Any] | None = None, **version: Any) -> dict[str, Any]:
    """A CRD of kind Widget; without a schema it takes everything."""
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.acme.io"},
        "spec": {
            "group": "acme.io",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema or free},
                    **version,
                }
            ],
        },
    }


def widget(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "acme.io/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Kubectl:
    """Runs kubectl against a server, with a home of its own."""

    def __init__(self, home: Path, server: ApiServer) -> None:
        self._home = home
        self._config = home / "kubeconfig"
        self._config.write_text(json.dumps(server.kubeconfig()))

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self._home), "KUBECONFIG": str(self._config)}

    async def run(
        self, *arguments: str, stdin: Any = None, seconds: float = 20, extra: dict[str, str] | None = None
    ) -> Result:
        text = None if stdin is None else stdin if isinstance(stdin, str) else json.dumps(stdin)
        done = await asyncio.to_thread(
            subprocess.run,
            ["kubectl", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**self.environment, **(extra or {})},
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    async def ok(self, *arguments: str, stdin: Any = None, seconds: float = 20) -> str:
        result = await self.run(*arguments, stdin=stdin, seconds=seconds)
        assert result.code == 0, f"kubectl {' '.join(arguments)}: {result.out}{result.err}"
        return result.out

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "kubectl", *arguments, env=self.environment, stdout=asyncio.subprocess.PIPE
        )
