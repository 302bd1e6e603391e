"""How long a stage has run and waited, from what is observed and what its status has recorded. Pure.

A stage's time is kept as an interval of its latest pod and the sum of those before it, so that neither a restart of
the operator nor a Job that is gone loses any of it.
"""

from __future__ import annotations

from datetime import datetime

from finetune_api.status import StageState, StageStatus
from finetune_operator.observe import Attempt, AttemptState
from finetune_operator.times import parse_time, rfc3339


def clocked(status: StageStatus, before: StageStatus | None, latest: Attempt | None, now: datetime) -> StageStatus:
    """`status` with its times: those that `before` recorded of the same work, brought up to date by `latest`."""
    running = _running(before, latest, now)
    same_job = before is not None and before.job == status.job
    shown = latest if latest is not None and latest.name == status.job else None
    return status.model_copy(
        update={
            **running,
            "attempted_at": status.attempted_at or (shown.created_at if shown else None),
            "node": (shown.node if shown else None) or (before.node if before and same_job else None),
            "waiting_since": _waiting_since(status, before, shown, running["running_until"], now),
        }
    )


def stopped(status: StageStatus, now: datetime) -> StageStatus:
    """`status` with its clocks at rest."""
    until = status.running_until or (rfc3339(now) if status.running_since else None)
    return status.model_copy(update={"running_until": until, "progress": None})


def ran(status: StageStatus, now: datetime) -> float:
    """Seconds that the stage's pods have run until now."""
    return status.ran_seconds + seconds(status.running_since, status.running_until, now)


def seconds(since: str | None, until: str | None, now: datetime) -> float:
    """Seconds from `since` to `until`, or to `now` where there is no `until`; 0 where there is no `since`."""
    begin, end = parse_time(since), parse_time(until) or now
    return max(0.0, (end - begin).total_seconds()) if begin else 0.0


def _running(before: StageStatus | None, latest: Attempt | None, now: datetime) -> dict[str, str | int | None]:
    """The interval of the pod that ran last, and the seconds of those before it."""
    since, until = (before.running_since, before.running_until) if before else (None, None)
    total = before.ran_seconds if before else 0
    began = latest.began_at if latest else None
    if began and (since is None or began > since):
        # No kubelet's clock makes an interval longer than it can have been.
        total += round(seconds(since, until or min(began, rfc3339(now)), now))
        since, until = began, None
    shown = latest is not None and began == since
    if latest is not None and shown and latest.state == AttemptState.RUNNING and not latest.deleting:
        until = latest.ended_at
    elif since and until is None:
        until = (latest.ended_at or latest.finished_at if latest and shown else None) or rfc3339(now)
    return {"ran_seconds": total, "running_since": since, "running_until": until}


def _waiting_since(
    status: StageStatus, before: StageStatus | None, shown: Attempt | None, until: object, now: datetime
) -> str | None:
    """Since when the attempt that status names waits for its pod; None where it does not wait."""
    if status.state not in (StageState.PENDING, StageState.QUEUED):
        return None
    if shown is None:
        # Asked for in this very look, perhaps not for the first time.
        refused = before is not None and before.reason == "CreateRefused"
        return (before.waiting_since if before and refused else None) or status.attempted_at
    if shown.finished or shown.deleting:
        return None
    if before is not None and before.job == status.job and before.waiting_since:
        return before.waiting_since
    return max(shown.created_at, until) if isinstance(until, str) else shown.created_at or rfc3339(now)
