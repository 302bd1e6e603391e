"""One stage's attempts → what to do about it now. Pure: the heart of the operator's patience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from finetune_api.stage import StageResult
from finetune_api.status import StageProgress, StageState, StageStatus
from finetune_operator.failures import Failure, Verdict, judge
from finetune_operator.manifests import Manifest
from finetune_operator.observe import Attempt, AttemptState
from finetune_operator.settings import Settings
from finetune_operator.times import parse_time, rfc3339

# How long a Job that has ended waits for the watch to show its pod's end, which came before.
SETTLE_SECONDS = 30.0
DONE = (StageState.SUCCEEDED, StageState.REUSED)


@dataclass(frozen=True)
class Ticket:
    """A stage's work as `advance` needs it: what identifies it, and how to make its try number n.

    `evidence` is the folder in which the attempt of this name leaves what is needed to find out why it failed.
    """

    stage: str
    type: str
    key: str
    identity: str
    max_attempts: int
    job_name: Callable[[int], str]
    make_job: Callable[[int, int], Manifest]
    accepts: Callable[[StageResult], bool]
    evidence: Callable[[str], str] = lambda name: ""


@dataclass(frozen=True)
class Advance:
    """What became of a stage: its status, the Jobs to create, and when to look again.

    `result` is there once it succeeded in this very call; `lost` says that it ended well but its result is gone.
    """

    status: StageStatus
    create: list[Manifest] = field(default_factory=list)
    wanted: frozenset[str] = frozenset()
    requeue: float | None = None
    result: StageResult | None = None
    lost: bool = False

    @property
    def done(self) -> bool:
        """Whether the next stage may begin."""
        return self.status.state in DONE


def advance(
    ticket: Ticket,
    seen: Sequence[Attempt],
    previous: StageStatus | None,
    progress: StageProgress | None,
    settings: Settings,
    now: datetime,
) -> Advance:
    """Look at the newest attempt of `ticket`, and go on from there.

    `previous` is what status says of the stage; it counts only where its key is the ticket's.
    """
    if previous is not None and previous.key != ticket.key:
        previous = None
    latest = max(
        (attempt for attempt in seen if attempt.identity == ticket.identity),
        key=lambda attempt: attempt.number,
        default=None,
    )
    if latest is None:
        return _without_attempt(ticket, previous, now)
    base = _status_of(ticket, latest, previous)
    if latest.deleting and not latest.finished:
        waiting = base.model_copy(
            update={"state": StageState.PENDING, "reason": "Stopping", "message": "The last attempt is being stopped."}
        )
        return Advance(waiting, wanted=frozenset({latest.name}))
    if latest.finished and not latest.settled and _age(latest.finished_at, now) < SETTLE_SECONDS:
        running = base.model_copy(update={"state": StageState.RUNNING, "reason": "Running", "progress": progress})
        return Advance(running, wanted=frozenset({latest.name}), requeue=1.0)
    match latest.state:
        case AttemptState.COMPLETE:
            return _completed(ticket, latest, base, now)
        case AttemptState.FAILED:
            return _failed(ticket, latest, base, settings, now)
        case _:
            return Advance(_unfinished(latest, base, progress), wanted=frozenset({latest.name}))


def _age(moment: str | None, now: datetime) -> float:
    """Seconds since `moment`; for ever where there is none."""
    since = parse_time(moment)
    return (now - since).total_seconds() if since else float("inf")


def _without_attempt(ticket: Ticket, previous: StageStatus | None, now: datetime) -> Advance:
    """No Job is there: the first attempt, or one taken away, which goes on as a new try that costs nothing."""
    if previous is None or previous.job is None:
        return _start(ticket, 1, 1, None, now)
    number = previous.attempts + previous.retries
    if previous.job != ticket.job_name(number):
        # The recorded tries were for another template or runId: this work has not been tried.
        return _start(ticket, 1, 1, None, now)
    if previous.state == StageState.FAILED:
        return Advance(previous)
    return _start(ticket, number + 1, previous.attempts, previous, now)


def again(ticket: Ticket, last: Advance, now: datetime) -> Advance:
    """The next try of a stage that ended well and left nothing behind; it counts as an attempt."""
    counted = last.status.attempts + 1
    if counted > ticket.max_attempts:
        update = {"state": StageState.FAILED, "reason": "ResultLost", "message": "It ended well and left no result."}
        return Advance(last.status.model_copy(update=update))
    number = last.status.attempts + last.status.retries + 1
    return _start(ticket, number, counted, last.status, now)


def _start(ticket: Ticket, number: int, counted: int, previous: StageStatus | None, now: datetime) -> Advance:
    name = ticket.job_name(number)
    status = StageStatus(
        name=ticket.stage,
        type=ticket.type,
        state=StageState.PENDING,
        key=ticket.key,
        job=name,
        attempts=counted,
        retries=number - counted,
        started_at=previous.started_at if previous else rfc3339(now),
        reason="Starting",
        # As it is said of a Job whose pod is not there yet: other words would be another write a moment later.
        message="Its pod is starting.",
    )
    return Advance(status, create=[ticket.make_job(number, counted)], wanted=frozenset({name}))


def _status_of(ticket: Ticket, latest: Attempt, previous: StageStatus | None) -> StageStatus:
    return StageStatus(
        name=ticket.stage,
        type=ticket.type,
        state=StageState.PENDING,
        key=ticket.key,
        job=latest.name,
        attempts=latest.counted,
        retries=max(0, latest.number - latest.counted),
        started_at=(previous.started_at if previous else None) or latest.created_at,
    )


def _unfinished(latest: Attempt, base: StageStatus, progress: StageProgress | None) -> StageStatus:
    if latest.state == AttemptState.RUNNING:
        return base.model_copy(update={"state": StageState.RUNNING, "reason": "Running", "progress": progress})
    if latest.state == AttemptState.SUSPENDED:
        return base.model_copy(
            update={"state": StageState.QUEUED, "reason": "Queued", "message": "Waiting in its queue."}
        )
    if latest.waiting:
        return base.model_copy(update={"reason": latest.waiting.reason, "message": latest.waiting.message})
    return base.model_copy(update={"reason": "Starting", "message": "Its pod is starting."})


def _completed(ticket: Ticket, latest: Attempt, base: StageStatus, now: datetime) -> Advance:
    result = latest.result
    if result is None or not result.ok or result.key != ticket.key or not ticket.accepts(result):
        waiting = base.model_copy(
            update={
                "reason": "ResultLost",
                "message": "It ended well, but its result is gone.",
                "finished_at": latest.finished_at,
            }
        )
        return Advance(waiting, wanted=frozenset({latest.name}), lost=True)
    status = base.model_copy(
        update={
            "state": StageState.SUCCEEDED,
            "finished_at": latest.finished_at or rfc3339(now),
            "digest": result.digest,
            "attempt": result.attempt,
            "bytes": result.bytes or None,
            "metrics": result.metrics or None,
        }
    )
    return Advance(status, wanted=frozenset({latest.name}), result=result)


def _failed(ticket: Ticket, latest: Attempt, base: StageStatus, settings: Settings, now: datetime) -> Advance:
    failure = judge(latest, ticket.type)
    counted = latest.counted + (1 if failure.verdict == Verdict.COUNTED else 0)
    if failure.verdict == Verdict.FINAL or counted > ticket.max_attempts:
        return Advance(_given_up(ticket, latest, base, failure, now))
    wait = _back_off(latest, failure, settings, now)
    if wait > 0:
        # The moment, not the wait: a status whose words change by themselves would be written every second.
        moment = rfc3339(now + timedelta(seconds=wait))
        status = base.model_copy(
            update={"reason": failure.reason, "message": f"{failure.message[:900]}; tried again at {moment}."}
        )
        return Advance(status, requeue=wait)
    following = _start(ticket, latest.number + 1, counted, base, now)
    message = f"Attempt {counted}, after: {failure.message}."
    return Advance(
        following.status.model_copy(update={"reason": failure.reason, "message": message[:1024]}),
        create=following.create,
        wanted=following.wanted,
    )


def _given_up(ticket: Ticket, latest: Attempt, base: StageStatus, failure: Failure, now: datetime) -> StageStatus:
    message = failure.message
    if failure.verdict == Verdict.COUNTED:
        message += f" (attempt {latest.counted} was the last)"
    return base.model_copy(
        update={
            "state": StageState.FAILED,
            "finished_at": latest.finished_at or rfc3339(now),
            "reason": failure.reason,
            "message": message[:1024],
            "evidence": ticket.evidence(latest.name) or None if latest.result and latest.result.evidence else None,
        }
    )


def _back_off(latest: Attempt, failure: Failure, settings: Settings, now: datetime) -> float:
    """Seconds still to wait: doubling with each counted attempt; after endings from outside, only from the third on."""
    ended = parse_time(latest.finished_at)
    if ended is None:
        return 0.0
    if failure.verdict == Verdict.FREE:
        delay = settings.retry_backoff if latest.number - latest.counted >= 2 else 0.0
    else:
        delay = min(settings.retry_backoff * 2 ** (latest.counted - 1), settings.retry_backoff_limit)
    return max(0.0, (ended + timedelta(seconds=delay) - now).total_seconds())
