"""What API servers refuse of Jobs, pods, Leases and definitions beyond types and required members."""

from __future__ import annotations

from typing import Any

import pytest

from .support import DEFINITIONS, JOBS, PODS, Client, definition, job, pod

LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
Body = dict[str, Any]


def with_resources(**resources: Any) -> Body:
    return pod("p", containers=[{"name": "main", "image": "busybox:1", "resources": resources}])


def with_volume(**volume: Any) -> Body:
    return pod("p", volumes=[{"name": "v", **volume}])


def mounted_at(path: str) -> Body:
    container = {"name": "main", "image": "busybox:1", "volumeMounts": [{"name": "v", "mountPath": path}]}
    return pod("p", volumes=[{"name": "v", "emptyDir": {}}], containers=[container])


def token(seconds: int) -> Body:
    return {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": seconds}}]}


def rules(*items: Body) -> Body:
    return {"rules": list(items)}


IGNORE = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
GPU = "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (with_resources(limits={"memory": "lots"}), 'limits[memory]: Invalid value: "lots": quantities must match'),
        (with_resources(limits={"gpu": 1}), "limits[gpu]: Invalid value"),
        (with_resources(limits={GPU: "500m"}), "must be an integer"),
        (with_resources(requests={GPU: 1}), "Limit must be set for non overcommitable resources"),
        (with_resources(requests={GPU: 1}, limits={GPU: 2}), "must be equal to nvidia.com/gpu limit of 2"),
        (
            with_resources(requests={"memory": "2Gi"}, limits={"memory": "1Gi"}),
            "must be less than or equal to memory limit of 1Gi",
        ),
        (with_volume(), "spec.volumes[0]: Required value: must specify a volume type"),
        (with_volume(emptyDir={}, secret={"secretName": "s"}), "may not specify more than 1 volume type"),
        (with_volume(secret={}), "spec.volumes[0].secret.secretName: Required value"),
        (with_volume(secret={"secretName": "s", "defaultMode": 4096}), "must be a number between 0 and 0777 (octal)"),
        (with_volume(configMap={"name": "c", "items": [{"key": "k", "path": "/k"}]}), "must be a relative path"),
        (with_volume(configMap={"name": "c", "items": [{"key": "k", "path": "a/../k"}]}), "must not contain '..'"),
        (with_volume(projected=token(60)), "may not specify a duration less than 10 minutes"),
        (mounted_at("/a:b"), "must not contain ':'"),
    ],
)
async def test_pods_that_are_refused(client: Client, body: Body, text: str) -> None:
    reply = await client.post(PODS, body)
    assert reply.code == 422, reply.body
    assert text in reply.message


async def test_what_a_pod_may_ask_for_is_taken(client: Client) -> None:
    both = {"requests": {"cpu": "500m", GPU: 1}, "limits": {"cpu": "0.5", "memory": "1Gi", GPU: 1}}
    body = with_resources(**both)
    body["spec"]["volumes"] = [
        {"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "token", "projected": token(600)},
        {"name": "keys", "secret": {"secretName": "s", "defaultMode": 0o440, "items": [{"key": "k", "path": "a/k"}]}},
    ]
    made = await client.made(PODS, body)
    assert made["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi", GPU: "1"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            job("j", podFailurePolicy=rules(IGNORE), podReplacementPolicy="TerminatingOrFailed"),
            'podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed"',
        ),
        (job("j", podReplacementPolicy="Never"), 'podReplacementPolicy: Unsupported value: "Never"'),
        (job("j", backoffLimitPerIndex=1), "backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"),
        (job("j", successPolicy=rules({"succeededCount": 1})), "requires indexed completion mode"),
        (
            job("j", completionMode="Indexed", completions=2, maxFailedIndexes=1),
            "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
        ),
        (
            job("j", podFailurePolicy=rules({"action": "FailIndex", "onPodConditions": IGNORE["onPodConditions"]})),
            "requires the backoffLimitPerIndex to be set",
        ),
        (
            job("j", podFailurePolicy=rules({**IGNORE, "onPodConditions": [{"type": "Ready", "status": "yes"}]})),
            'onPodConditions[0].status: Unsupported value: "yes"',
        ),
        (
            job("j" * 62, completionMode="Indexed", completions=2),
            "metadata.name: Invalid value",
        ),
    ],
)
async def test_jobs_that_are_refused(client: Client, body: Body, text: str) -> None:
    reply = await client.post(JOBS, body)
    assert reply.code == 422, reply.body
    assert text in reply.message


async def test_an_indexed_job_whose_pods_names_are_names_is_taken(client: Client) -> None:
    await client.made(JOBS, job("j" * 61, completionMode="Indexed", completions=2, parallelism=2))


def lease(**spec: Any) -> Body:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec}


async def test_leases_have_seconds_above_zero_and_times_to_the_microsecond(client: Client) -> None:
    assert "must be greater than 0" in (await client.post(LEASES, lease(leaseDurationSeconds=0))).message
    for wrong in ("2026-11-28T17:00:00Z", "2026-11-28T17:00:00.123Z", "2026-11-28 17:00:00.000000Z"):
        reply = await client.post(LEASES, lease(renewTime=wrong))
        assert reply.code == 400, reply.body
        assert f'parsing time "{wrong}"' in reply.message
    given = lease(leaseDurationSeconds=15, acquireTime="2026-11-28T18:00:00.000001+01:00")
    assert (await client.made(LEASES, given))["spec"]["acquireTime"] == "2026-11-28T17:00:00.000001Z"


async def test_a_list_maps_keys_are_always_there(client: Client) -> None:
    items = {"type": "object", "properties": {"name": {"type": "string"}}}
    named = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": items}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"named": named}}}}
    reply = await client.post(DEFINITIONS, definition(schema))
    assert reply.code == 422
    assert "must have a default or be a required property" in reply.message
    items["required"] = ["name"]
    assert (await client.post(DEFINITIONS, definition(schema))).code == 201
