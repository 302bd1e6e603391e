"""What the operator creates while it runs jobs that use all there is: GPUs, nodes, claims, tokens, queue, overlay."""

from __future__ import annotations

import copy
from functools import cache

from ..api.specs import job_spec
from ..operator.world import World
from .chart import Body

OVERLAY = {
    "imagePullSecrets": [{"name": "mirror"}],
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "caBundle": {"name": "company-ca"},
    "modelCache": {"claimName": "models", "maxSize": "50Gi"},
    "labels": {"cost-centre": "ml"},
    "annotations": {"example.com/note": "x"},
}


def stage_objects() -> list[Body]:
    """Jobs of all stages of three such jobs, their plans, and the Service of the one that trains in several pods."""
    return copy.deepcopy(_stage_objects())


@cache
def _stage_objects() -> list[Body]:
    system = {
        "name": "gpu",
        "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}},
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "priorityClassName": "batch",
        "serviceAccountName": "trainer",
        "runtimeClassName": "nvidia",
    }
    model = {"modelPath": "microsoft/Phi-3-mini-4k-instruct", "tokenSecretRef": {"name": "hub", "key": "token"}}
    with_gpu = job_spec(systems=[system], inputModel=model, queueName="gpus")
    with_gpu["engine"]["host"] = "gpu"
    with_claim = job_spec(inputModel={"modelPath": "pvc://models/phi3"})
    with_claim["storage"] = {
        "uri": "s3://team/out",
        "webIdentity": {"roleArn": "arn:aws:iam::1:role/store"},
        "caBundleRef": {"name": "store-ca"},
    }
    with_claim["publishTargets"] = [
        {
            "name": "hub",
            "repoId": "team/tones",
            "artifact": "adapter",
            "tokenSecretRef": {"name": "hub", "key": "write"},
        }
    ]
    together = job_spec(systems=[{**system, "nodes": 2, "processesPerNode": 1}], queueName="gpus")
    together["engine"]["host"] = "gpu"
    return [body for spec in (with_gpu, with_claim, together) for body in _run(spec)]


def _run(spec: Body) -> list[Body]:
    world = World(spec)
    world.allow(pods=OVERLAY)
    while world.status.get("phase") != "Succeeded":
        world.step()
        for name in world.unfinished():
            world.complete(name)
    jobs = [{name: value for name, value in job.items() if name != "status"} for job in world.jobs.values()]
    for job in jobs:
        del job["metadata"]["creationTimestamp"]
    return [*jobs, *world.config_maps.values(), *world.services.values()]
