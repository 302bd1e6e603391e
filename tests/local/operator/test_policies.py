"""Policies and jobs that come together: whatever is seen first, nothing starts that a policy forbids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web
from tests.local.operator.conftest import CRDS, FINETUNE_JOBS, Operator, Stand, job, wait_for

from finetune_api.policy_crd import policy_crd
from finetune_local.client import JOBS, ApiError, Object, Resource
from finetune_local.cluster import kubeconfig

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICIES = Resource("finetune.dev/v1alpha1", "finetunepolicies", "FinetunePolicy")
# Longer than everything else of a start takes.
LATE_SECONDS = 1.0
PAIRS = 12


def policy(name: str, namespace: str) -> Object:
    """A policy by which no job's storage may be where the tests' jobs have it."""
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return {
        "apiVersion": POLICIES.api_version,
        "kind": POLICIES.kind,
        "metadata": {"name": name},
        "spec": {"namespaceSelector": selector, "allow": {"storageHosts": ["storage.example.com"]}},
    }


@asynccontextmanager
async def late_policies(stand: Stand, path: Path) -> AsyncIterator[Path]:
    """A kubeconfig of the cluster by way of a proxy whose answers about policies are late."""

    async def pass_on(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(f"/{POLICIES.plural}"):
            await asyncio.sleep(LATE_SECONDS)
        headers = {name: value for name, value in request.headers.items() if name not in ("Host", "Content-Length")}
        async with session.request(
            request.method, stand.cluster.url + request.path_qs, headers=headers, data=await request.read()
        ) as answer:
            kept = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
            passed = web.StreamResponse(status=answer.status, headers=kept)
            await passed.prepare(request)
            async for part in answer.content.iter_any():
                await passed.write(part)
            return passed

    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", pass_on)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    await asyncio.to_thread(path.write_text, yaml.safe_dump(kubeconfig(f"http://127.0.0.1:{port}")))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(), auto_decompress=True) as session:
        try:
            yield path
        finally:
            await runner.cleanup()


async def is_refused(stand: Stand, operator: Operator, name: str, namespace: str) -> list[str]:
    """The job is refused by policy and was never planned; the stages that it got to before."""
    status = await wait_for(
        lambda: stand.status(name, namespace), lambda status: status.get("phase") == "Failed", operator.log
    )
    (valid,) = [item for item in status["conditions"] if item["type"] == "SpecValid"]
    assert (valid["reason"], status.get("plan")) == ("PolicyViolation", None)
    jobs = await stand.client.get(JOBS.path(namespace))
    return [item["metadata"]["labels"]["finetune.dev/stage"] for item in jobs["items"]]


async def test_a_job_that_is_there_at_the_start_waits_until_the_policies_are_known(
    stand: Stand, tmp_path: Path
) -> None:
    team = await stand.namespace("early")
    await _ensure_definition(stand)
    await stand.client.create(POLICIES.path(), policy("early", team))
    await stand.apply("held", team)
    async with late_policies(stand, tmp_path / "late.yaml") as config:
        operator = await stand.operator(config, namespaces=team)
        assert await is_refused(stand, operator, "held", team) == []
        await operator.child.stop()


async def test_a_job_right_after_its_policy_is_held_to_it(stand: Stand) -> None:
    """Two watches have no common order: one that is seen before its policy may prepare, and gets no plan."""
    await _ensure_definition(stand)
    teams = [await stand.namespace(f"pair-{number}") for number in range(PAIRS)]
    operator = await stand.operator(stand.cluster.kubeconfig, namespaces=",".join(teams))
    for team in teams:
        await stand.client.create(POLICIES.path(), policy(team, team))
        await stand.client.create(FINETUNE_JOBS.path(team), job("held", team))
    for team in teams:
        assert set(await is_refused(stand, operator, "held", team)) <= {"prepare"}


async def _ensure_definition(stand: Stand) -> None:
    try:
        await stand.client.create(CRDS.path(), policy_crd())
    except ApiError as error:
        assert error.status == 409
