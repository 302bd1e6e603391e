"""Limits that a spec sets to a run's time: activeDeadlineSeconds and maxQueueSeconds. Pure.

A limit that has passed fails the stage and stops its Job. What was measured stays in the stage's status, so that
the limit can be asked again whenever it is raised; then the stage goes on as it would after a suspension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from finetune_api.job import JobSpec
from finetune_api.status import StageState, StageStatus
from finetune_operator.attempts import DONE, Advance
from finetune_operator.clocks import ran, seconds, stopped
from finetune_operator.failures import ENDED_BY_LIMIT
from finetune_operator.times import rfc3339

DEADLINE_EXCEEDED, QUEUE_TIMEOUT = ENDED_BY_LIMIT


def limited(
    step: Advance, before: StageStatus | None, earlier: Sequence[StageStatus], spec: JobSpec, now: datetime
) -> Advance:
    """`step`, or the end of its stage where a limit has passed; else with the instant at which one will.

    `before` is what status has recorded of the same work, `earlier` are the run's stages before this one.
    """
    standing = before if before and before.state == StageState.FAILED and before.reason in ENDED_BY_LIMIT else None
    if step.status.state in DONE or (step.status.state == StageState.FAILED and standing is None):
        return step
    waited_by = standing if standing and standing.reason == QUEUE_TIMEOUT else step.status
    waited = seconds(waited_by.waiting_since, waited_by.finished_at if waited_by is standing else None, now)
    total = ran(step.status, now) + sum(ran(stage, now) for stage in earlier if stage.state != StageState.REUSED)
    deadline, patience = spec.active_deadline_seconds, spec.max_queue_seconds
    if deadline is not None and total >= deadline:
        message = f"its stages have run for {deadline} s, which is spec.activeDeadlineSeconds; raise it to go on"
        return Advance(_ended(step, standing, before, DEADLINE_EXCEEDED, message, now))
    if patience is not None and waited >= patience:
        why = f" ({step.status.message})" if step.status.message else ""
        message = f"it waited for {patience} s, which is spec.maxQueueSeconds{why}; raise it to go on"
        return Advance(_ended(step, standing, before, QUEUE_TIMEOUT, message, now))
    left = [step.requeue]
    if deadline is not None and step.status.running_since and not step.status.running_until:
        left.append(deadline - total)
    if patience is not None and step.status.waiting_since:
        left.append(patience - waited)
    return replace(step, requeue=min((each for each in left if each is not None), default=None))


def _ended(
    step: Advance, standing: StageStatus | None, before: StageStatus | None, reason: str, message: str, now: datetime
) -> StageStatus:
    """The stage's status at the end that a limit made, the same however often it is asked for."""
    if standing is not None and standing.reason == reason:
        return standing
    status = step.status
    if step.create:
        # What was to be made now is not made, and must not be missed later as one that was taken away.
        kept = {"job": None, "attempts": 0, "retries": 0, "attempted_at": None, "waiting_since": None}
        status = before or status.model_copy(update=kept)
    update = {"state": StageState.FAILED, "reason": reason, "message": message[:1024], "finished_at": rfc3339(now)}
    return stopped(status, now).model_copy(update=update)
