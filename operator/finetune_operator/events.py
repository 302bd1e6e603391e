"""Status before and after → the Kubernetes Events that tell of the change, with stable reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finetune_api.status import Phase, StageState, StageStatus, Status


@dataclass(frozen=True)
class Event:
    """What `kubectl describe` shows of a change."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def events(before: Status, after: Status) -> list[Event]:
    """One event for each stage whose state changed, and one for the run's end."""
    known = {stage.name: stage for stage in before.stages}
    found = [event for stage in after.stages for event in _stage_events(known.get(stage.name), stage)]
    if after.phase != before.phase or after.observed_generation != before.observed_generation:
        found += _run_events(before, after)
    return found


def _stage_events(before: StageStatus | None, after: StageStatus) -> list[Event]:
    same = before is not None and before.key == after.key
    state = before.state if before and same else None
    found: list[Event] = []
    if before and same and before.job != after.job and before.job is not None and after.state != StageState.FAILED:
        found.append(Event("Warning", "StageRetried", f"{after.name}: {after.message or after.reason}"))
    if after.state == state:
        return found
    match after.state:
        case StageState.RUNNING:
            found.append(Event("Normal", "StageStarted", f"{after.name} runs as Job {after.job}."))
        case StageState.SUCCEEDED:
            found.append(Event("Normal", "StageSucceeded", f"{after.name} succeeded."))
        case StageState.REUSED:
            found.append(Event("Normal", "StageReused", f"{after.name}: {after.message or 'its result is kept'}"))
        case StageState.FAILED:
            found.append(Event("Warning", "StageFailed", f"{after.name}: {after.reason}: {after.message}"))
        case StageState.QUEUED:
            found.append(Event("Normal", "Queued", f"{after.name} waits in its queue."))
    return found


def _run_events(before: Status, after: Status) -> list[Event]:
    match after.phase:
        case Phase.SUCCEEDED if after.phase != before.phase:
            names = ", ".join(f"{artifact.name} {artifact.uri}" for artifact in after.artifacts)
            return [Event("Normal", "ArtifactsPublished", names or "No model was asked for.")]
        case Phase.FAILED if not _spec_valid(after):
            return [Event("Warning", _reason(after), after.message or "")]
        case Phase.SUSPENDED if after.phase != before.phase:
            return [Event("Normal", "Suspended", after.message or "")]
    return []


def _reason(status: Status) -> str:
    return next(condition.reason for condition in status.conditions if condition.type == "Succeeded")


def _spec_valid(status: Status) -> bool:
    return all(condition.status != "False" for condition in status.conditions if condition.type == "SpecValid")
