"""What Kubernetes shows of a job's attempts, read once into small types. Pods are untrusted: read with care."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from finetune_api.stage import MAX_RESULT_BYTES, StageResult
from finetune_operator import labels, pods
from finetune_operator.pods import Lost, Waiting
from finetune_operator.words import plain

Body = Mapping[str, Any]


class AttemptState(StrEnum):
    """Where an attempt's Job stands."""

    SUSPENDED = "suspended"
    PENDING = "pending"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """One try of a stage, as its Job and the newest pod of each rank show it.

    `settled` is false while the Job has ended and the watch has not yet shown how its pod did. `pods` is how many of
    the `size` pods there are; `running` of them run or have ended. `began_at` and `ended_at` are rank 0's.
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
    size: int = 1
    pods: int = 0
    running: int = 0
    node: str | None = None
    failed_node: str | None = None
    began_at: str | None = None
    ended_at: str | None = None
    placed_at: str | None = None
    resumed_at: str | None = None
    lost: Lost | None = None

    @property
    def finished(self) -> bool:
        """Whether the Job has come to an end."""
        return self.state in (AttemptState.COMPLETE, AttemptState.FAILED)


def attempts(jobs: Iterable[Body], all_pods: Iterable[Body], owner_uid: str) -> list[Attempt]:
    """The attempts among `jobs` that belong to the FinetuneJob `owner_uid`, in order of their number.

    A Job that merely bears our labels is nobody's attempt: the owner's uid decides.
    """
    by_job: dict[str, list[Body]] = {}
    for pod in all_pods:
        for reference in pod.get("metadata", {}).get("ownerReferences") or []:
            if reference.get("kind") == "Job":
                by_job.setdefault(str(reference.get("uid")), []).append(pod)
    found = [
        _attempt(job, by_job.get(job["metadata"]["uid"], []))
        for job in jobs
        if any(owner.get("uid") == owner_uid for owner in job["metadata"].get("ownerReferences") or [])
    ]
    return sorted(found, key=lambda attempt: attempt.number)


def _attempt(job: Body, found: list[Body]) -> Attempt:
    meta, status = job["metadata"], job.get("status") or {}
    names = meta.get("labels") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or [] if item.get("status") == "True"}
    failed = conditions.get("Failed")
    ended = conditions.get("Complete") or failed
    size = _size(job)
    ranks = pods.newest_by_rank(found)
    telling = pods.culprit(ranks, failed)
    ending = pods.terminated(telling)
    state = _state(job, conditions, ranks, size)
    return Attempt(
        name=meta["name"],
        uid=meta["uid"],
        identity=names.get(labels.IDENTITY, ""),
        stage=names.get(labels.STAGE, ""),
        key=str((meta.get("annotations") or {}).get(labels.KEY, "")),
        number=_number(names.get(labels.TRY)),
        counted=_number(names.get(labels.ATTEMPT)),
        state=state,
        deleting="deletionTimestamp" in meta,
        created_at=str(meta.get("creationTimestamp", "")),
        finished_at=(ended or {}).get("lastTransitionTime") or status.get("completionTime"),
        exit_code=pods.exit_code(failed, ending),
        oom_killed=ending.get("reason") == "OOMKilled",
        pod=telling["metadata"]["name"] if telling else None,
        result=read_result(ending.get("message")),
        waiting=pods.waiting(ranks),
        settled=telling is None or bool(ending) or pods.phase(telling) in ("Succeeded", "Failed"),
        failure=plain(f"{failed.get('reason', '')}: {failed.get('message', '')}", 512) if failed else "",
        size=size,
        pods=len(ranks),
        running=sum(pods.phase(pod) in _BEGUN for pod in ranks),
        node=pods.node_of(ranks[0] if ranks else None),
        failed_node=pods.node_of(telling),
        began_at=pods.began_at(ranks[0] if ranks else None),
        ended_at=pods.moment(pods.terminated(ranks[0] if ranks else None).get("finishedAt")),
        placed_at=pods.placed_at(ranks[0] if ranks else None),
        resumed_at=_resumed_at(status),
        lost=pods.lost_node(found) if not ended else None,
    )


def has_ended(job: Body) -> bool:
    """Whether the Job has come to an end, well or not."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(item.get("type") in ("Complete", "Failed") and item.get("status") == "True" for item in conditions)


_BEGUN = ("Running", "Succeeded", "Failed")


def _resumed_at(status: Body) -> str | None:
    """When the Job was last let go from its queue."""
    for item in status.get("conditions") or []:
        if item.get("type") == "Suspended" and item.get("status") == "False":
            return pods.moment(item.get("lastTransitionTime"))
    return None


def _size(job: Body) -> int:
    """How many pods the Job runs."""
    completions = (job.get("spec") or {}).get("completions")
    return completions if isinstance(completions, int) and 0 < completions < 10_000 else 1


def _number(text: Any) -> int:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 6 else 1


def _state(job: Body, conditions: Mapping[str, Body], ranks: Sequence[Body], size: int) -> AttemptState:
    if "Complete" in conditions:
        return AttemptState.COMPLETE
    if "Failed" in conditions:
        return AttemptState.FAILED
    if job.get("spec", {}).get("suspend"):
        return AttemptState.SUSPENDED
    if sum(pods.phase(pod) in _BEGUN for pod in ranks) >= size:
        return AttemptState.RUNNING
    return AttemptState.PENDING


def read_result(message: Any) -> StageResult | None:
    """The result in a termination message; None where it is no result of ours, too long, or of the wrong shape."""
    if not isinstance(message, str) or not 0 < len(message.encode(errors="replace")) <= MAX_RESULT_BYTES:
        return None
    try:
        return StageResult.model_validate_json(message)
    except ValidationError:
        return None
