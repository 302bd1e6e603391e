"""The client's manners: a server that is too busy is obeyed, and what it refuses is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from aiohttp import ServerDisconnectedError, web
from aiohttp.test_utils import TestServer

from finetune_operator import kube as module
from finetune_operator.kube import TRIES, ApiError, Kube, may_pass

JOB = {"kind": "Job", "metadata": {"name": "a", "namespace": "team"}}


class Busy:
    """An API server that answers 429 as often as `left` says, with this Retry-After."""

    def __init__(self) -> None:
        self.left, self.after = 0, "3"
        self.seen: Counter[str] = Counter()

    async def answer(self, request: web.Request) -> web.Response:
        self.seen[f"{request.method} {request.path}"] += 1
        if self.left:
            self.left -= 1
            status = {"kind": "Status", "code": 429, "reason": "TooManyRequests", "message": "too many requests"}
            headers = {"Retry-After": self.after} if self.after else {}
            return web.json_response(status, status=429, headers=headers)
        return web.json_response({"kind": "Job", "metadata": {"name": "a"}})


@pytest_asyncio.fixture
async def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Busy, Kube, list[float], Counter[tuple[str, int]]]]:
    """A busy server, a client of it, how long that slept, and what it counted."""
    busy, slept, counted = Busy(), [], Counter[tuple[str, int]]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", busy.answer)
    async with TestServer(application) as server:
        user: dict[str, Any] = {"name": "u", "user": {}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": str(server.make_url(""))}}],
            "users": [user],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        kube = await Kube.connect(5.0, lambda verb, code: counted.update([(verb, code)]))
        monkeypatch.setattr(module.asyncio, "sleep", sleep)
        yield busy, kube, slept, counted
        monkeypatch.undo()
        await kube.close()


@pytest.mark.parametrize(
    ("after", "wait"), [("3", 3.0), ("", 1.0), ("600", 10.0), ("Sat, 28 Nov 2026 13:00:00 GMT", 1.0)]
)
async def test_a_busy_server_is_asked_again_when_it_says(scene: Any, after: str, wait: float) -> None:
    busy, kube, slept, counted = scene
    busy.left, busy.after = 2, after
    assert (await kube.create(JOB))["metadata"]["name"] == "a"
    assert slept == [wait, wait]
    assert counted == {("POST", 429): 2, ("POST", 200): 1}


async def test_it_is_not_asked_for_ever(scene: Any) -> None:
    busy, kube, slept, _ = scene
    busy.left = 99
    with pytest.raises(ApiError, match="too many requests") as found:
        await kube.get("Job", "team", "a")
    assert found.value.passing
    assert busy.seen["GET /apis/batch/v1/namespaces/team/jobs/a"] == TRIES
    assert len(slept) == TRIES - 1


@pytest.mark.parametrize(("status", "passing"), [(403, False), (409, False), (422, False), (429, True), (503, True)])
def test_what_may_pass_is_told_from_what_will_not(status: int, *, passing: bool) -> None:
    assert may_pass(ApiError(status, "", "")) is passing


def test_a_connection_that_fails_may_pass() -> None:
    assert all(map(may_pass, [ConnectionResetError(), TimeoutError(), ServerDisconnectedError()]))
    assert not may_pass(KeyError("odd"))
