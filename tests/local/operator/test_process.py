"""The operator as a process: with the rights that it says it needs, one of two, and seen by its probes and logs."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path

import pytest
from tests.local.operator.conftest import CRDS, FINETUNE_JOBS, LEASE, OWN, Operator, Stand, permissions, wait_for

from finetune_api.policy_crd import policy_crd
from finetune_local.client import JOBS, PODS, SECRETS, ApiClient, ApiError, Resource

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEASES = Resource("coordination.k8s.io/v1", "leases", "Lease")
POLICIES = Resource("finetune.dev/v1alpha1", "finetunepolicies", "FinetunePolicy")
SHORT_LEASE = 3


def said(operator: Operator) -> list[dict[str, object]]:
    """The lines of its log."""
    return [json.loads(line) for line in operator.log.read_text().splitlines()]


async def refused(operator: Operator) -> set[tuple[str, str]]:
    """Requests that were refused for want of a right, as the operator counted and logged them."""
    assert not [line for line in said(operator) if "forbidden" in str(line["message"]).lower()]
    return {entry for entry in await operator.requests() if entry[1] in ("401", "403")}


async def test_with_its_declared_rights_and_no_others_it_runs_a_job(stand: Stand) -> None:
    team = await stand.namespace("rights")
    config = await stand.account(*permissions())
    operator = await stand.operator(config, lease=LEASE, namespace=OWN)
    await stand.apply("phi3", team)
    status = await stand.succeeded("phi3", team)
    assert [stage["state"] for stage in status["stages"]] == ["Succeeded"] * 3
    # A job that is edited has a Job stopped and events counted up: calls that a smooth run does not make.
    await stand.client.patch(
        f"/apis/finetune.dev/v1alpha1/namespaces/{team}/finetunejobs/phi3", {"spec": {"runId": "2"}}
    )
    await wait_for(
        lambda: stand.status("phi3", team),
        lambda status: status.get("phase") == "Succeeded" and status.get("observedGeneration") == 2,
        operator.log,
    )
    assert await refused(operator) == set()

    await deleted_in_the_foreground(stand, operator, team)
    assert await refused(operator) == set()

    for line in said(operator):
        if line["logger"] == "finetune_operator.reporting":
            assert line["namespace"] == team
            assert line["name"] in ("phi3", "unwanted")
            assert line["generation"] in (1, 2)
            assert "stage" in line or "ArtifactsPublished" in str(line["message"])
    async with ApiClient(stand.cluster.url, headers={"Authorization": f"Bearer {token(config)}"}) as client:
        for path in (SECRETS.path(team), JOBS.path(team, "x", "status"), LEASES.path(team, LEASE)):
            with pytest.raises(ApiError, match="forbidden"):
                await client.get(path)


async def deleted_in_the_foreground(stand: Stand, operator: Operator, team: str) -> None:
    """A job that is deleted with `--cascade=foreground` while it runs: it goes last, and nothing is made again."""
    await stand.apply("unwanted", team)
    query = {"labelSelector": "finetune.dev/job=unwanted"}

    async def left() -> list[str]:
        jobs, pods = [await stand.client.get(resource.path(team), **query) for resource in (JOBS, PODS)]
        owners = await stand.client.get(FINETUNE_JOBS.path(team))
        return [item["metadata"]["name"] for answer in (jobs, pods, owners) for item in answer["items"]]

    await wait_for(left, lambda names: len(names) > 2, operator.log)
    await stand.client.delete(FINETUNE_JOBS.path(team, "unwanted"), propagation="Foreground")
    await wait_for(left, lambda names: names == ["phi3"], operator.log)
    await asyncio.sleep(1)
    assert await left() == ["phi3"]


def token(config: Path) -> str:
    return config.read_text().split("token: ")[1].split()[0]


async def test_with_listed_namespaces_it_works_there_and_asks_nowhere_else(stand: Stand) -> None:
    mine, other = await stand.namespace("listed"), await stand.namespace("unlisted")
    operator = await stand.operator(await stand.account(*permissions([mine])), namespaces=mine)
    await stand.apply("theirs", other)
    await stand.apply("ours", mine)
    await stand.succeeded("ours", mine)
    assert await stand.status("theirs", other) == {}
    assert await refused(operator) == set()


async def test_a_standby_does_nothing_until_the_leader_dies_and_then_takes_over(stand: Stand) -> None:
    team = await stand.namespace("two")
    settings = {"lease": LEASE, "namespace": OWN, "lease_seconds": str(SHORT_LEASE), "namespaces": team}
    with_rights = await stand.account(*permissions([team]))
    leader = await stand.operator(with_rights, **settings)
    await stand.apply("before", team)
    await stand.succeeded("before", team)
    standby = await stand.operator(with_rights, **settings)
    assert (await standby.probe("/healthz"))[0] == 200
    await stand.apply("during", team)
    await stand.succeeded("during", team)
    assert {verb for verb, _ in await standby.requests()} <= {"GET", "LIST"}, "it watches, and does nothing"

    await leader.kill()
    begun = time.monotonic()
    await stand.apply("after", team)
    await wait_for(lambda: stand.status("after", team), bool, standby.log)
    # A lease and a pause; the rest is a machine with other things to do.
    assert time.monotonic() - begun < 2 * SHORT_LEASE + 2
    await stand.succeeded("after", team)

    # One that is told to end leaves the Lease without a holder, so that nobody waits for its term.
    third = await stand.operator(with_rights, **settings)
    begun = time.monotonic()
    await standby.child.stop()
    assert time.monotonic() - begun < 4, "something was waited for that never ends"
    assert any("is given back" in str(line["message"]) for line in said(standby))
    await stand.apply("last", team)
    await stand.succeeded("last", team)
    assert await refused(third) == set()


async def test_no_more_jobs_of_a_namespace_run_than_its_policy_lets(stand: Stand) -> None:
    team = await stand.namespace("bounded")
    policy = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FinetunePolicy",
        "metadata": {"name": "bounded"},
        "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": team}},
            "limits": {"maxRunningJobs": 1},
        },
    }
    await stand.client.create(CRDS.path(), policy_crd())
    await stand.client.create(POLICIES.path(), policy)
    with_rights = await stand.account(*permissions([team]))
    operator = await stand.operator(with_rights, namespaces=team)
    names = ("first", "second")
    for name in names:
        await stand.apply(name, team)
    queued = await wait_for(lambda: stand.status("second", team), lambda status: status.get("phase"), operator.log)
    (condition,) = [item for item in queued["conditions"] if item["type"] == "Queued"]
    assert (queued["phase"], condition["reason"]) == ("Queued", "RunningJobsLimit")
    for name in names:
        await stand.succeeded(name, team)
    ended = [await stand.status(name, team) for name in names]
    spans = [(status["stages"][0]["startedAt"], status["finishedAt"]) for status in ended]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), spans
    assert await refused(operator) == set()


async def test_a_poison_job_stops_nobody_and_is_told_of(stand: Stand) -> None:
    team = await stand.namespace("poison")
    operator = await stand.operator(stand.cluster.kubeconfig, namespaces=team)
    await stand.apply("heavy", team)
    await stand.client.patch(FINETUNE_JOBS.path(team, "heavy"), {"metadata": {"annotations": {"a": "x" * 250_000}}})
    await stand.apply("garbled", team)
    nonsense = {"phase": "Succeeded", "message": "all done", "stages": [], "plan": {"name": "none", "generation": 1}}
    await stand.client.patch(FINETUNE_JOBS.path(team, "garbled", "status"), {"status": nonsense})
    await stand.apply("robbed", team)
    jobs = await wait_for(
        lambda: stand.client.get(JOBS.path(team), labelSelector="finetune.dev/job=robbed"),
        lambda answer: bool(answer["items"]),
        operator.log,
    )
    await stand.client.delete(JOBS.path(team, jobs["items"][0]["metadata"]["name"]), propagation="Background")
    for name in ("heavy", "garbled", "robbed"):
        status = await stand.succeeded(name, team)
        assert len(status["stages"]) == 3
        assert status["artifacts"], name
    assert await operator.probe("/healthz") == (200, "ok")
    assert (await operator.probe("/other"))[0] == 404
