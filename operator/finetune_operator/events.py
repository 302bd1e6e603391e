"""Status before and after → the Kubernetes Events that tell of the change, with stable reasons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from finetune_api.stage import Reason
from finetune_api.status import Phase, StageState, StageStatus, Status
from finetune_operator.attempts import LIGHT, NODE_UNREACHABLE
from finetune_operator.failures import ENDED_BY_LIMIT
from finetune_operator.reasons import RUNNING_JOBS_LIMIT


@dataclass(frozen=True)
class Event:
    """What `kubectl describe` shows of a change; `stage` is empty where it is the whole run's."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    stage: str = ""


def events(before: Status, after: Status) -> list[Event]:
    """One event for each stage whose state changed, and one for the run's end, which is publish's as well."""
    known = {stage.name: stage for stage in before.stages}
    found = [
        replace(event, stage=stage.name)
        for stage in after.stages
        for event in _stage_events(known.get(stage.name), stage)
    ]
    if after.phase != before.phase or after.observed_generation != before.observed_generation:
        found += _run_events(before, after)
    return found


def _stage_events(before: StageStatus | None, after: StageStatus) -> list[Event]:
    same = before if before is not None and before.key == after.key else None
    found: list[Event] = []
    if same and same.job not in (None, after.job) and after.state != StageState.FAILED:
        found.append(Event("Warning", "StageRetried", _words(after)))
    if after.reason == NODE_UNREACHABLE and (same is None or same.reason != NODE_UNREACHABLE):
        found.append(Event("Warning", NODE_UNREACHABLE, _words(after)))
    if same is not None and after.state == same.state:
        return found
    return [*found, *_state_events(same, after)]


def _state_events(before: StageStatus | None, after: StageStatus) -> list[Event]:
    """What is told of a stage's new state."""
    if before is not None and _lost_its_place(before, after):
        return [Event("Warning", "Preempted", f"{_words(after)} It goes on from its last checkpoint.")]
    if after.state == StageState.FAILED:
        words = f"{after.name}: {after.reason}: {after.message}"
        cause = [Event("Warning", after.reason, _words(after))] if after.reason in _CAUSES else []
        return [*cause, Event("Warning", "StageFailed", words)]
    goes_on = before is not None and before.running_since is not None
    news = {
        StageState.SUCCEEDED: ("StageSucceeded", f"{after.name} succeeded."),
        StageState.REUSED: ("StageReused", f"{after.name}: {after.message or 'its result is kept'}"),
        StageState.QUEUED: ("Queued", _words(after)),
    }
    if goes_on:
        news[StageState.RUNNING] = ("Resumed", f"{after.name} goes on as Job {after.job}.")
    elif after.type not in LIGHT:
        # What takes a few seconds: that it has begun is no news by the time it is read.
        news[StageState.RUNNING] = ("StageStarted", f"{after.name} runs as Job {after.job}.")
    if after.type in LIGHT:
        # The first pass' start says it of prepare, and ArtifactsPublished of publish.
        news.pop(StageState.SUCCEEDED)
    return [Event("Normal", *news[after.state])] if after.state in news else []


# Endings that have an event of their own, beside StageFailed.
_CAUSES = (Reason.OUT_OF_MEMORY, *ENDED_BY_LIMIT)


def _lost_its_place(before: StageStatus, after: StageStatus) -> bool:
    """Whether the stage's Job goes on waiting for a pod after one of its pods ran: evicted, drained or preempted."""
    waits = after.state in (StageState.PENDING, StageState.QUEUED) and after.waiting_since is not None
    return before.state == StageState.RUNNING and waits and before.job == after.job


def _words(stage: StageStatus) -> str:
    return f"{stage.name}: {stage.message or stage.reason or stage.state}"


def _run_events(before: Status, after: Status) -> list[Event]:
    match after.phase:
        case Phase.SUCCEEDED if after.phase != before.phase:
            names = ", ".join(f"{artifact.name} {artifact.uri}" for artifact in after.artifacts)
            return [Event("Normal", "ArtifactsPublished", names or "No model was asked for.")]
        case Phase.FAILED if not _spec_valid(after):
            return [Event("Warning", _reason(after), after.message or "")]
        case Phase.QUEUED if after.phase != before.phase and _reason(after) == RUNNING_JOBS_LIMIT:
            return [Event("Normal", "Queued", after.message or "")]
        case Phase.SUSPENDED if after.phase != before.phase:
            return [Event("Normal", "Suspended", after.message or "")]
    return []


def _reason(status: Status) -> str:
    return next(condition.reason for condition in status.conditions if condition.type == "Succeeded")


def _spec_valid(status: Status) -> bool:
    return all(condition.status != "False" for condition in status.conditions if condition.type == "SpecValid")
