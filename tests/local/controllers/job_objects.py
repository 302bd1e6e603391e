"""Jobs and pods as the Job controller finds them, and what its steps say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_local.controllers import jobpods
from finetune_local.controllers.jobs import Steps
from finetune_operator.times import rfc3339

NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=UTC)


FAIL_OTHER = {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "NotIn", "values": [0]}}


IGNORE_DISRUPTION = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


POLICY = {"rules": [IGNORE_DISRUPTION, FAIL_OTHER]}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def make_job(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}
    base = {"parallelism": 1, "completions": 1, "backoffLimit": 6, "template": template}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "j", "namespace": "ns", "uid": "job-uid"},
        "spec": {name: value for name, value in {**base, **spec}.items() if value is not None},
        "status": status or {},
    }


def make_pod(
    uid: str,
    phase: str = "Running",
    *,
    code: int | None = None,
    tracked: bool = True,
    deleting: bool = False,
    conditions: tuple[str, ...] = (),
    index: int | None = None,
    ended: float = 0,
    restarts: int = 0,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": f"j-{uid}",
        "namespace": "ns",
        "uid": uid,
        "creationTimestamp": rfc3339(NOW),
        "finalizers": [jobpods.TRACKING] if tracked else [],
    }
    if deleting:
        metadata["deletionTimestamp"] = rfc3339(NOW)
    if index is not None:
        metadata["annotations"] = {jobpods.INDEX: str(index)}
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": [{"type": name, "status": "True"} for name in conditions],
    }
    state = {} if code is None else {"terminated": {"exitCode": code, "finishedAt": rfc3339(at(ended))}}
    status["containerStatuses"] = [{"name": "c", "state": state, "restartCount": restarts}]
    return {"metadata": metadata, "status": status, "spec": {}}


def conditions_of(steps: Steps) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in steps.status.get("conditions", [])}


def message_of(steps: Steps, kind: str) -> str:
    return next(item["message"] for item in steps.status["conditions"] if item["type"] == kind)


def uids(pods: list[dict[str, Any]]) -> list[str]:
    return [pod["metadata"]["uid"] for pod in pods]
