"""Pods that train together: how their Job, their Service and their environment let them find each other. Pure.

Each pod of an Indexed Job has the host name `<job>-<index>`, and a headless Service gives it a name in DNS before it is
ready. torchrun's c10d rendezvous meets at index 0.
"""

from __future__ import annotations

from typing import Any

from finetune_api import keys, stage
from finetune_operator import labels
from finetune_operator.owner import Owner
from finetune_operator.plan import PodSettings

Manifest = dict[str, Any]

# Evictions, preemptions and drains cost nothing; any other ending is the operator's to judge.
IGNORE_DISRUPTIONS: Manifest = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
# Where pods train together, none can go on without the others: the next attempt goes on from the last checkpoint.
END_BY_DISRUPTION: Manifest = {**IGNORE_DISRUPTIONS, "action": "FailJob"}


def nodes(pod: PodSettings) -> int:
    """How many pods run the stage."""
    return pod.nodes or 1


def service_name(owner: Owner) -> str:
    """The Service of all the job's stages that run in several pods; never another job's, not even of the same name."""
    return f"ft-{keys.digest(owner.uid)[:16]}"


def service(owner: Owner, stage_name: str) -> Manifest:
    """The headless Service: owned by the FinetuneJob, which outlives the Jobs whose pods it names."""
    name = service_name(owner)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {labels.MANAGED_BY: labels.OPERATOR, labels.JOB: owner.name, labels.STAGE: stage_name},
            "ownerReferences": [owner.reference()],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {labels.RENDEZVOUS: name},
            "ports": [{"name": "rendezvous", "port": stage.RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }


def job_fields(pod: PodSettings) -> Manifest:
    """How many pods the Job runs, as fields of its spec."""
    count = nodes(pod)
    return {"completions": count, "parallelism": count, **({"completionMode": "Indexed"} if count > 1 else {})}


def pod_labels(owner: Owner, pod: PodSettings) -> dict[str, str]:
    """What the Service finds the pods by."""
    return {labels.RENDEZVOUS: service_name(owner)} if nodes(pod) > 1 else {}


def pod_fields(owner: Owner, pod: PodSettings) -> Manifest:
    """The pod's place in DNS, as fields of its spec."""
    return {"subdomain": service_name(owner)} if nodes(pod) > 1 else {}


def environment(owner: Owner, job: str, pod: PodSettings) -> dict[str, str]:
    """Where the processes meet, and how many they are; nothing for a single process."""
    processes = pod.processes_per_node or 1
    if nodes(pod) * processes == 1:
        return {}
    host = f"{job}-0.{service_name(owner)}" if nodes(pod) > 1 else "127.0.0.1"
    return {
        stage.NODES_ENV: str(nodes(pod)),
        stage.PROCESSES_ENV: str(processes),
        stage.RENDEZVOUS_ENV: f"{host}:{stage.RENDEZVOUS_PORT}",
    }
