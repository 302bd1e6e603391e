"""Kueue's Workloads, read from an API server that has the kind, as the operator reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from kubernetes.aio import client, config
from tests.local.cluster.conftest import Bench

from finetune_local.client import Resource
from finetune_operator.kube import Kube
from finetune_operator.kueue import Place
from finetune_operator.workloads import Workloads

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEFINITIONS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
# As much of the kind as Kueue serves and the operator reads: both versions, the newer one preferred.
OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
SCHEMA = {"openAPIV3Schema": {"type": "object", "properties": {"spec": OPEN, "status": OPEN}}}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "workloads.kueue.x-k8s.io"},
    "spec": {
        "group": "kueue.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "Workload", "plural": "workloads", "singular": "workload", "listKind": "WorkloadList"},
        "versions": [
            {"name": "v1beta1", "served": True, "storage": False, "schema": SCHEMA},
            {"name": "v1beta2", "served": True, "storage": True, "schema": SCHEMA},
        ],
    },
}
WAITS = [{"spec": {"suspend": True}}]


@pytest_asyncio.fixture(loop_scope="module")
async def kube(bench: Bench) -> AsyncIterator[Kube]:
    configuration = client.Configuration()
    await config.load_kube_config(config_file=str(bench.cluster.kubeconfig), client_configuration=configuration)
    made = Kube(client.ApiClient(configuration), 10.0, lambda verb, code: None)
    yield made
    await made.close()


def workload(name: str, uid: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": True}
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {"queueName": "team"},
        "status": {"conditions": list(conditions)},
    }


async def test_a_cluster_without_kueue_then_with_it(bench: Bench, kube: Kube) -> None:
    seen = await Workloads(kube).of("default", WAITS)
    assert seen is not None
    assert not seen.present
    await bench.client.create(DEFINITIONS.path(), DEFINITION)
    owner = await bench.run_job("waits", "true", suspend=True)
    said = {
        "type": "QuotaReserved",
        "status": "False",
        "reason": "WaitingForQuota",
        "message": "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu",
    }
    uid = owner["metadata"]["uid"]
    path = "/apis/kueue.x-k8s.io/v1beta2/namespaces/default/workloads"
    await bench.client.create(path, workload("waits", uid, said))
    assert await kube.preferred_version("kueue.x-k8s.io") == "v1beta2"
    seen = await Workloads(kube).of("default", WAITS)
    assert seen is not None
    assert seen.places == {uid: Place("WaitingForQuota", said["message"])}


async def test_nothing_is_asked_while_nothing_waits() -> None:
    # There is no API server behind it to ask.
    assert await Workloads(None).of("default", [{"spec": {}}]) is None  # type: ignore[arg-type]
