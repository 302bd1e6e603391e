"""What Kubernetes shows of a job's attempts, read once into small types. Pods are untrusted: read with care."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from finetune_api.stage import MAX_RESULT_BYTES, StageResult
from finetune_operator import labels
from finetune_operator.manifests import CONTAINER

Body = Mapping[str, Any]

_EXIT_CODE = re.compile(r"failed with exit code (\d+)")
# Angle brackets that no page takes for a tag, and half surrogate pairs that UTF-8 has no bytes for.
_MARKUP = {ord("<"): "‹", ord(">"): "›", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


class AttemptState(StrEnum):
    """Where an attempt's Job stands."""

    SUSPENDED = "suspended"
    PENDING = "pending"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True)
class Waiting:
    """Why an attempt's pod does not run yet."""

    reason: str
    message: str


@dataclass(frozen=True)
class Attempt:
    """One try of a stage, as its Job and newest pod show it.

    `settled` is false while the Job has ended and the watch has not yet shown how its pod did.
    """

    name: str
    uid: str
    identity: str
    stage: str
    key: str
    number: int
    counted: int
    state: AttemptState
    deleting: bool
    created_at: str
    finished_at: str | None
    exit_code: int | None = None
    oom_killed: bool = False
    pod: str | None = None
    result: StageResult | None = None
    waiting: Waiting | None = None
    failure: str = ""
    settled: bool = True

    @property
    def finished(self) -> bool:
        """Whether the Job has come to an end."""
        return self.state in (AttemptState.COMPLETE, AttemptState.FAILED)


def attempts(jobs: Iterable[Body], pods: Iterable[Body], owner_uid: str) -> list[Attempt]:
    """The attempts among `jobs` that belong to the FinetuneJob `owner_uid`, in order of their number.

    A Job that merely bears our labels is nobody's attempt: the owner's uid decides.
    """
    by_job: dict[str, list[Body]] = {}
    for pod in pods:
        for reference in pod.get("metadata", {}).get("ownerReferences") or []:
            if reference.get("kind") == "Job":
                by_job.setdefault(str(reference.get("uid")), []).append(pod)
    found = [
        _attempt(job, by_job.get(job["metadata"]["uid"], []))
        for job in jobs
        if any(owner.get("uid") == owner_uid for owner in job["metadata"].get("ownerReferences") or [])
    ]
    return sorted(found, key=lambda attempt: attempt.number)


def _attempt(job: Body, pods: list[Body]) -> Attempt:
    meta, status = job["metadata"], job.get("status") or {}
    names = meta.get("labels") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or [] if item.get("status") == "True"}
    pod = max(pods, key=lambda item: str(item["metadata"].get("creationTimestamp", "")), default=None)
    terminated = _terminated(pod)
    failed = conditions.get("Failed")
    ended = conditions.get("Complete") or failed
    return Attempt(
        name=meta["name"],
        uid=meta["uid"],
        identity=names.get(labels.IDENTITY, ""),
        stage=names.get(labels.STAGE, ""),
        key=str((meta.get("annotations") or {}).get(labels.KEY, "")),
        number=_number(names.get(labels.TRY)),
        counted=_number(names.get(labels.ATTEMPT)),
        state=_state(job, conditions, pod),
        deleting="deletionTimestamp" in meta,
        created_at=str(meta.get("creationTimestamp", "")),
        finished_at=(ended or {}).get("lastTransitionTime") or status.get("completionTime"),
        exit_code=_exit_code(failed, terminated),
        oom_killed=terminated.get("reason") == "OOMKilled",
        pod=pod["metadata"]["name"] if pod else None,
        result=read_result(terminated.get("message")),
        waiting=_waiting(pod),
        settled=pod is None or bool(terminated) or _phase(pod) in ("Succeeded", "Failed"),
        failure=plain(f"{failed.get('reason', '')}: {failed.get('message', '')}", 512) if failed else "",
    )


def _number(text: Any) -> int:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 6 else 1


def _state(job: Body, conditions: Mapping[str, Body], pod: Body | None) -> AttemptState:
    if "Complete" in conditions:
        return AttemptState.COMPLETE
    if "Failed" in conditions:
        return AttemptState.FAILED
    if job.get("spec", {}).get("suspend"):
        return AttemptState.SUSPENDED
    if pod and _phase(pod) in ("Running", "Succeeded", "Failed"):
        return AttemptState.RUNNING
    return AttemptState.PENDING


def _phase(pod: Body) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _terminated(pod: Body | None) -> Body:
    for container in ((pod or {}).get("status") or {}).get("containerStatuses") or []:
        if container.get("name") == CONTAINER:
            return (container.get("state") or {}).get("terminated") or {}
    return {}


def _exit_code(failed: Body | None, terminated: Body) -> int | None:
    """The trainer's exit code, from its pod, or from the Job's condition where the pod is gone."""
    if isinstance(terminated.get("exitCode"), int):
        return int(terminated["exitCode"])
    match = _EXIT_CODE.search(str((failed or {}).get("message", "")))
    return int(match[1]) if match else None


def read_result(message: Any) -> StageResult | None:
    """The result in a termination message; None where it is no result of ours, too long, or of the wrong shape."""
    if not isinstance(message, str) or not 0 < len(message.encode(errors="replace")) <= MAX_RESULT_BYTES:
        return None
    try:
        return StageResult.model_validate_json(message)
    except ValidationError:
        return None


def _waiting(pod: Body | None) -> Waiting | None:
    status = (pod or {}).get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return Waiting(_word(condition.get("reason")), plain(condition.get("message"), 512))
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            return Waiting(_word(waiting.get("reason")), plain(waiting.get("message"), 512))
    return None


def _word(text: Any) -> str:
    """A condition's reason: letters and digits, a letter first."""
    return re.sub(r"[^A-Za-z0-9]", "", str(text or "")).lstrip("0123456789")[:64] or "Waiting"


def plain(text: Any, limit: int) -> str:
    """`text` as one line without control characters and markup, cut to `limit` characters."""
    line = _CONTROL.sub(" ", str(text or "")[: 8 * limit]).translate(_MARKUP).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"
