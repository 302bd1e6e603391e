"""A Job's pods: how they are made, and what their states mean to the Job."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from datetime import datetime

from finetune_local.client import Object
from finetune_operator.times import parse_time

# Holds a finished pod until its ending is in the Job's status.
TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
INDEX_ENV = "JOB_COMPLETION_INDEX"


def is_tracked(pod: Object) -> bool:
    """Whether the Job still has to take note of the pod's ending."""
    return TRACKING in pod["metadata"].get("finalizers", [])


def phase(pod: Object) -> str:
    """The pod's phase; Pending where no node has spoken yet."""
    return pod.get("status", {}).get("phase", "Pending")


def is_over(pod: Object) -> bool:
    """Whether the pod's containers have ended for good."""
    return phase(pod) in ("Succeeded", "Failed")


def is_deleting(pod: Object) -> bool:
    """Whether the pod's deletion has been asked for."""
    return "deletionTimestamp" in pod["metadata"]


def is_active(pod: Object) -> bool:
    """Whether the pod counts as running for the Job."""
    return not is_over(pod) and not is_deleting(pod)


def is_ready(pod: Object) -> bool:
    """Whether the pod's Ready condition is true."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def index_of(pod: Object) -> int | None:
    """The pod's completion index; None in a Job that is not indexed."""
    text = pod["metadata"].get("annotations", {}).get(INDEX)
    return int(text) if text is not None and text.isdecimal() else None


def restarts(pod: Object) -> int:
    """How often containers of the pod were started again."""
    status = pod.get("status", {})
    fields = ("containerStatuses", "initContainerStatuses")
    return sum(container.get("restartCount", 0) for field in fields for container in status.get(field, []))


def ended_at(pod: Object) -> datetime | None:
    """When the last container of the pod ended."""
    containers = pod.get("status", {}).get("containerStatuses", [])
    moments = [parse_time(item.get("state", {}).get("terminated", {}).get("finishedAt")) for item in containers]
    return max((moment for moment in moments if moment), default=None)


def new_pod(job: Object, index: int | None) -> Object:
    """A pod of `job` from its template; the server completes its name."""
    template, name = deepcopy(job["spec"]["template"]), job["metadata"]["name"]
    metadata = template.get("metadata", {})
    spec = template["spec"]
    labels, annotations = dict(metadata.get("labels", {})), dict(metadata.get("annotations", {}))
    prefix = f"{name}-"
    if index is not None:
        prefix = f"{name}-{index}-"
        labels[INDEX] = annotations[INDEX] = str(index)
        spec.setdefault("hostname", f"{name}-{index}")
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            _tell_index(container)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": prefix,
            "namespace": job["metadata"]["namespace"],
            "labels": labels,
            "annotations": annotations,
            "finalizers": [TRACKING],
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": name,
                    "uid": job["metadata"]["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": spec,
    }


def owner_uid(pod: Object) -> str | None:
    """The uid of the Job that controls `pod`; None where no Job does."""
    for owner in pod["metadata"].get("ownerReferences", []):
        if owner.get("controller") and owner["kind"] == "Job":
            return owner["uid"]
    return None


def parse_indexes(text: str) -> set[int]:
    """The indexes that a status' `completedIndexes` names: `1,3-5,7`."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def format_indexes(indexes: Iterable[int]) -> str:
    """The inverse of `parse_indexes`: runs of three and more become `first-last`, pairs `first,second`."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(str(index) for index in run) for run in runs)


def _tell_index(container: Object) -> None:
    environment = container.setdefault("env", [])
    if not any(variable["name"] == INDEX_ENV for variable in environment):
        source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{INDEX}']"}}
        environment.append({"name": INDEX_ENV, "valueFrom": source})
