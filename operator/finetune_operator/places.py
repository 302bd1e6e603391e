"""limits.maxRunningJobs of a FinetunePolicy: which jobs of a namespace may begin, the oldest first. Pure.

A job that has begun keeps its place until it ends or is suspended, so that an older one which comes back, as one that
is edited long after its end does, waits like the others instead of stopping them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.status import Phase
from finetune_operator.conditions import FINAL
from finetune_operator.reasons import RUNNING_JOBS_LIMIT
from finetune_operator.view import MANAGER

Body = Mapping[str, Any]
_AT_WORK = (Phase.PENDING, Phase.QUEUED, Phase.RUNNING)


def wants_one(job: Body) -> bool:
    """Whether there is anything to do for it: it is ours, not suspended, and has not ended as it is now."""
    meta, spec, status = job["metadata"], job.get("spec") or {}, job.get("status") or {}
    if "deletionTimestamp" in meta or spec.get("suspend") or spec.get("managedBy") not in (None, "", MANAGER):
        return False
    ended = status.get("phase") in FINAL and status.get("observedGeneration") == meta.get("generation")
    return not ended


def has_begun(job: Body) -> bool:
    """Whether the job has a place, by what its status says."""
    status = job.get("status") or {}
    return wants_one(job) and status.get("phase") in _AT_WORK and not is_waiting(job)


def is_waiting(job: Body) -> bool:
    """Whether its status says that the job waits for a place."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(item.get("type") == "Queued" and item.get("reason") == RUNNING_JOBS_LIMIT for item in conditions)


def with_a_place(jobs: Iterable[Body], limit: int, asking: str = "") -> set[str]:
    """The uids of those of a namespace's jobs that have a place or may take one now.

    The one that is `asking` wants a place, though its status may say that it has ended.
    """
    begun: set[str] = set()
    others: list[tuple[str, str, str]] = []
    for job in jobs:
        meta = job["metadata"]
        if has_begun(job):
            begun.add(meta["uid"])
        elif wants_one(job) or meta["uid"] == asking:
            others.append((str(meta.get("creationTimestamp", "")), meta["name"], meta["uid"]))
    free = max(0, limit - len(begun))
    return begun | {uid for *_, uid in sorted(others)[:free]}
