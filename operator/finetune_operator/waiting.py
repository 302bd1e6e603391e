"""Why an attempt does not run yet: one message that a person can act on. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_operator.observe import Attempt
from finetune_operator.times import parse_time

# How long a Job may have no pod, and a pod on its node no container, before that is worth a word.
NO_POD_AFTER = 30.0
NO_CONTAINER_AFTER = 60.0


def why_waiting(latest: Attempt, excluded: list[str], now: datetime) -> tuple[str, str, float | None]:
    """(reason, message, seconds until there may be more to say) of an attempt that is not suspended and not running."""
    if latest.waiting:
        message = latest.waiting.message
        if excluded and latest.waiting.reason == "Unschedulable":
            message += (
                f" Not tried on {', '.join(excluded)}, where attempts met with faulty hardware, stalled or were lost; "
                "a new spec.runId lets them be tried again."
            )
        return latest.waiting.reason, _of_several(latest, message), None
    if latest.pods == 0:
        until_told = _left(latest.resumed_at or latest.created_at, NO_POD_AFTER, now)
        if until_told <= 0:
            message = (
                "The Job has no pod: a quota or an admission policy may refuse it, or the Job controller does not run. "
                f"kubectl describe job {latest.name} shows why."
            )
            return "NoPod", message, None
        return "Starting", "Its pod is starting.", until_told
    left = _left(latest.placed_at, NO_CONTAINER_AFTER, now) if latest.placed_at else None
    if left is not None and left <= 0:
        message = (
            f"Its pod is on node {latest.node} and has no container yet: the image is being pulled, or a volume, "
            f"Secret or ConfigMap that it mounts is missing. kubectl describe pod {latest.pod} shows which."
        )
        return "ContainerCreating", _of_several(latest, message), None
    return "Starting", _of_several(latest, "Its pod is starting."), left


def _left(since: str | None, delay: float, now: datetime) -> float:
    begin = parse_time(since)
    return (begin + timedelta(seconds=delay) - now).total_seconds() if begin else delay


def _of_several(latest: Attempt, message: str) -> str:
    return f"{latest.running} of {latest.size} pods run. {message}" if latest.size > 1 else message
