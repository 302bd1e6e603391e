"""One stage's attempts → what to do about it now. Pure: the heart of the operator's patience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from finetune_api.stage import Reason, StageResult
from finetune_api.status import MAX_EXCLUDED_NODES, StageProgress, StageState, StageStatus
from finetune_operator.clocks import clocked
from finetune_operator.failures import ENDED_BY_LIMIT, Failure, Verdict, judge
from finetune_operator.kueue import Queues, queue_words
from finetune_operator.manifests import Manifest
from finetune_operator.observe import Attempt, AttemptState
from finetune_operator.settings import Settings
from finetune_operator.times import parse_time, rfc3339
from finetune_operator.waiting import NO_POD_AFTER, why_waiting

# How long a Job that has ended waits for the watch to show its pod's end, which came before.
SETTLE_SECONDS = 30.0
# How often a Job that waits in its queue is looked at for news of why.
QUEUE_POLL_SECONDS = 30.0
NODE_UNREACHABLE = "NodeUnreachable"
# After these the next attempt goes to another node.
_FAULTS_OF_NODES = (Reason.HARDWARE, Reason.STALLED)
DONE = (StageState.SUCCEEDED, StageState.REUSED)
# Work that is cheap and leaves nothing that another run of it would not: where its result is lost, it is done again.
LIGHT = ("Prepare", "Probe", "Publish")


@dataclass(frozen=True)
class Ticket:
    """A stage's work as `advance` needs it: what identifies it, and how to make its try number n.

    `make` is given the number of the try, the number that counts, and the nodes to keep away from; its last object is
    the Job. `evidence` is the folder in which the attempt of this name leaves what is needed to find out why it failed.
    """

    stage: str
    type: str
    key: str
    identity: str
    max_attempts: int
    job_name: Callable[[int], str]
    make: Callable[[int, int, list[str]], list[Manifest]]
    accepts: Callable[[StageResult], bool]
    queue: str | None = None
    evidence: Callable[[str], str] = lambda name: ""

    def recorded(self, previous: StageStatus | None) -> StageStatus | None:
        """`previous`, where its tries are this work's, and not those of another key, template or runId."""
        if previous is None or previous.key != self.key:
            return None
        ours = previous.job is None or previous.job == self.job_name(previous.attempts + previous.retries)
        return previous if ours else None


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


@dataclass(frozen=True)
class Around:
    """What `advance` sees beside the attempts of its stage."""

    settings: Settings
    now: datetime
    progress: StageProgress | None = None
    queues: Queues | None = None


def advance(ticket: Ticket, seen: Sequence[Attempt], previous: StageStatus | None, around: Around) -> Advance:
    """Look at the newest attempt of `ticket`, and go on from there.

    `previous` is what status says of the stage; it counts only where its key is the ticket's.
    """
    recorded = ticket.recorded(previous)
    latest = max(
        (attempt for attempt in seen if attempt.identity == ticket.identity),
        key=lambda attempt: attempt.number,
        default=None,
    )
    step = _without_attempt(ticket, recorded, around) if latest is None else _with(ticket, latest, recorded, around)
    return replace(step, status=clocked(step.status, recorded, latest, around.now))


def _with(ticket: Ticket, latest: Attempt, recorded: StageStatus | None, around: Around) -> Advance:
    """What became of the newest attempt."""
    now, base = around.now, _status_of(ticket, latest, recorded)
    if latest.lost and (parse_time(latest.lost.since) or now) <= now:
        return _unreachable(ticket, latest, base, around)
    if latest.deleting and not latest.finished:
        waiting = base.model_copy(
            update={"state": StageState.PENDING, "reason": "Stopping", "message": "The last attempt is being stopped."}
        )
        return Advance(waiting, wanted=frozenset({latest.name}), requeue=_until_lost(latest, now))
    if latest.finished and not latest.settled and _age(latest.finished_at, now) < SETTLE_SECONDS:
        running = base.model_copy(
            update={"state": StageState.RUNNING, "reason": "Running", "progress": around.progress}
        )
        return Advance(running, wanted=frozenset({latest.name}), requeue=1.0)
    match latest.state:
        case AttemptState.COMPLETE:
            return _completed(ticket, latest, base, now)
        case AttemptState.FAILED:
            return _failed(ticket, latest, base, around)
        case _:
            return _unfinished(ticket, latest, base, around)


def _until_lost(latest: Attempt, now: datetime) -> float | None:
    """Seconds until the attempt's node counts as lost, where a deletion should have ended by then."""
    since = parse_time(latest.lost.since) if latest.lost else None
    return max(0.0, (since - now).total_seconds()) if since else None


def _age(moment: str | None, now: datetime) -> float:
    """Seconds since `moment`; for ever where there is none."""
    since = parse_time(moment)
    return (now - since).total_seconds() if since else float("inf")


def _without_attempt(ticket: Ticket, recorded: StageStatus | None, around: Around) -> Advance:
    """No Job is there: the first attempt, or one taken away, which goes on as a new try that costs nothing."""
    now = around.now
    if recorded is None or recorded.job is None:
        return _start(ticket, 1, 1, recorded, now)
    if recorded.state == StageState.FAILED and recorded.reason not in ENDED_BY_LIMIT:
        return Advance(recorded)
    number = recorded.attempts + recorded.retries
    made = parse_time(recorded.attempted_at)
    wait = _free_delay(recorded.retries, around.settings) - ((now - made).total_seconds() if made else float("inf"))
    if wait > 0 and made is not None:
        # Something takes its Jobs away again and again: making them at once each time would help nobody.
        moment = rfc3339(now + timedelta(seconds=wait))
        update = {
            "state": StageState.PENDING,
            "reason": Reason.TERMINATED,
            "message": f"Its Job was taken away; tried again at {moment}.",
            "progress": None,
        }
        return Advance(recorded.model_copy(update=update), requeue=wait)
    return _start(ticket, number + 1, recorded.attempts, recorded, now)


def _free_delay(retries: int, settings: Settings) -> float:
    """Seconds between tries that cost nothing: none for the first two, then doubling up to the limit."""
    if retries < 2:
        return 0.0
    return min(settings.retry_backoff * 2.0 ** min(retries - 2, 30), settings.retry_backoff_limit)


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
    excluded = list(previous.excluded_nodes) if previous else []
    status = StageStatus(
        name=ticket.stage,
        type=ticket.type,
        state=StageState.PENDING,
        key=ticket.key,
        job=name,
        attempts=counted,
        retries=number - counted,
        started_at=(previous.started_at if previous else None) or rfc3339(now),
        attempted_at=rfc3339(now),
        excluded_nodes=excluded,
        reason="Starting",
        # As it is said of a Job whose pod is not there yet: other words would be another write a moment later.
        message="Its pod is starting.",
    )
    # That there is no pod by then would be no event.
    return Advance(
        status, create=ticket.make(number, counted, excluded), wanted=frozenset({name}), requeue=NO_POD_AFTER
    )


def _status_of(ticket: Ticket, latest: Attempt, previous: StageStatus | None) -> StageStatus:
    same = previous if previous and previous.job == latest.name else None
    return StageStatus(
        name=ticket.stage,
        type=ticket.type,
        state=StageState.PENDING,
        key=ticket.key,
        job=latest.name,
        attempts=latest.counted,
        retries=max(0, latest.number - latest.counted),
        started_at=(previous.started_at if previous else None) or latest.created_at,
        # As it was written when the Job was asked for: a second more or less would be one more write.
        attempted_at=(same.attempted_at if same else None) or latest.created_at or None,
        node=same.node if same else None,
        excluded_nodes=list(previous.excluded_nodes) if previous else [],
    )


def _unfinished(ticket: Ticket, latest: Attempt, base: StageStatus, around: Around) -> Advance:
    wanted = frozenset({latest.name})
    if latest.state == AttemptState.RUNNING:
        update = {"state": StageState.RUNNING, "reason": "Running", "progress": around.progress}
        return Advance(base.model_copy(update=update), wanted=wanted, requeue=_until_lost(latest, around.now))
    if latest.state == AttemptState.SUSPENDED:
        reason, message = queue_words(ticket.queue, latest.uid, around.queues)
        update = {"state": StageState.QUEUED, "reason": reason, "message": message[:1024]}
        # Kueue's words are asked for; that the Job may run is seen at once.
        poll = QUEUE_POLL_SECONDS if around.queues is not None else None
        return Advance(base.model_copy(update=update), wanted=wanted, requeue=poll)
    reason, message, more = why_waiting(latest, base.excluded_nodes, around.now)
    return Advance(base.model_copy(update={"reason": reason, "message": message[:1024]}), wanted=wanted, requeue=more)


def _unreachable(ticket: Ticket, latest: Attempt, base: StageStatus, around: Around) -> Advance:
    """The attempt's node is not heard of: wait a while, then go on elsewhere, whatever becomes of the old pod."""
    lost, now = latest.lost, around.now
    if lost is None:
        raise ValueError(f"{latest.name}: no node of it is lost")
    since = parse_time(lost.since) or now
    wait = (since + timedelta(seconds=around.settings.node_unreachable_after) - now).total_seconds()
    base = base.model_copy(update={"excluded_nodes": _with_node(base.excluded_nodes, lost.node)})
    if wait > 0:
        moment = rfc3339(now + timedelta(seconds=wait))
        message = (
            f"node {lost.node} has not been heard of since {lost.since}; tried elsewhere at {moment}. "
            f"If it is gone for good, kubectl delete node {lost.node} frees what it held."
        )
        state = StageState.RUNNING if latest.state == AttemptState.RUNNING else StageState.PENDING
        status = base.model_copy(update={"state": state, "reason": NODE_UNREACHABLE, "message": message})
        return Advance(status, wanted=frozenset({latest.name}), requeue=wait)
    following = _start(ticket, latest.number + 1, latest.counted, base, now)
    message = f"Attempt {latest.counted} again, elsewhere: node {lost.node} has not been heard of since {lost.since}."
    status = following.status.model_copy(update={"reason": NODE_UNREACHABLE, "message": message})
    return replace(following, status=status)


def _with_node(nodes: Sequence[str], node: str | None) -> list[str]:
    """`nodes` and `node`, the newest ones where they are too many."""
    return list(nodes) if node is None or node in nodes else [*nodes, node][-MAX_EXCLUDED_NODES:]


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


def _failed(ticket: Ticket, latest: Attempt, base: StageStatus, around: Around) -> Advance:
    now, settings = around.now, around.settings
    failure = judge(latest, ticket.type)
    if failure.verdict == Verdict.FREE and latest.number - latest.counted >= settings.free_retries:
        # Ended from outside so often, it may well be its own doing.
        failure = replace(failure, verdict=Verdict.COUNTED)
    if failure.reason in _FAULTS_OF_NODES:
        base = base.model_copy(
            update={"excluded_nodes": _with_node(base.excluded_nodes, latest.failed_node or base.node)}
        )
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
    status = following.status.model_copy(update={"reason": failure.reason, "message": message[:1024]})
    return replace(following, status=status)


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
        delay = _free_delay(latest.number - latest.counted, settings)
    else:
        delay = min(settings.retry_backoff * 2.0 ** min(latest.counted - 1, 30), settings.retry_backoff_limit)
    return max(0.0, (ended + timedelta(seconds=delay) - now).total_seconds())
