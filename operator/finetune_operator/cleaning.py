"""ttlSecondsAfterFinished: the Jobs of a run that has ended are deleted after a while. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.job import JobSpec
from finetune_operator.actions import Seen, Stop
from finetune_operator.conditions import FINAL
from finetune_operator.times import parse_time
from finetune_operator.view import JobView


def cleaned(view: JobView, spec: JobSpec, seen: Seen, now: datetime) -> tuple[list[Stop], float | None]:
    """The Jobs to delete now, and the seconds until there are any.

    Only the status that is written counts: what a Job alone still tells must not go before it is recorded.
    """
    status = view.status
    ttl = spec.ttl_seconds_after_finished
    ended = parse_time(status.finished_at)
    if ttl is None or ended is None or status.phase not in FINAL or status.observed_generation != view.owner.generation:
        return [], None
    left = (ended + timedelta(seconds=ttl) - now).total_seconds()
    if left > 0:
        return [], left
    return [Stop(attempt) for attempt in seen.attempts if attempt.finished and not attempt.deleting], None
