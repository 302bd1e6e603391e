"""One state of a run → phase and all conditions. Nothing else sets them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from finetune_api.stage import Pins, Reason
from finetune_api.status import (
    ArtifactStatus,
    Condition,
    Phase,
    PlanRef,
    StageState,
    StageStatus,
    Status,
)
from finetune_operator.reasons import RUNNING_JOBS_LIMIT
from finetune_operator.times import rfc3339
from finetune_operator.words import plain

FINAL = (Phase.SUCCEEDED, Phase.FAILED)
POLICY_VIOLATION = "PolicyViolation"


@dataclass(frozen=True)
class RunState:
    """Where a run stands, found out by `reconcile` and by nothing else."""

    phase: Phase
    reason: str
    message: str
    spec_valid: bool = True
    stages: Sequence[StageStatus] = ()
    artifacts: Sequence[ArtifactStatus] = ()
    pins: Pins | None = None
    plan: PlanRef | None = None
    stage: StageStatus | None = field(default=None)
    # It waits for what a person should look at, and goes on by itself where it can.
    stalled: bool = False
    # What the namespace's policies have against the spec. What runs goes on; nothing new is made.
    violation: str = ""


def summarise(state: RunState, generation: int, previous: Status, now: datetime) -> Status:
    """The whole status that says `state`. Times of conditions that did not change are kept."""
    new_run = previous.phase in FINAL and state.phase not in FINAL
    started = None if new_run else previous.started_at
    finished = None
    if state.phase in FINAL:
        finished = previous.finished_at if previous.phase == state.phase else rfc3339(now)
    return Status(
        observed_generation=generation,
        phase=state.phase,
        stage=state.stage.name if state.stage else None,
        progress=_progress(state),
        loss=_loss(state),
        message=state.message[:4096] or None,
        started_at=started or rfc3339(now),
        finished_at=finished,
        plan=state.plan,
        pins=state.pins,
        conditions=_conditions(state, generation, previous, now),
        stages=list(state.stages),
        artifacts=list(state.artifacts),
    )


def _conditions(state: RunState, generation: int, previous: Status, now: datetime) -> list[Condition]:
    """Tekton's `Succeeded`, kstatus' `Ready`, `Reconciling` and `Stalled`, and ours."""
    phase = state.phase
    succeeded = {Phase.SUCCEEDED: "True", Phase.FAILED: "False"}.get(phase, "Unknown")
    at_work = phase in (Phase.PENDING, Phase.QUEUED, Phase.RUNNING)
    stalled = phase == Phase.FAILED or state.stalled
    words: list[tuple[str, str, str, str]] = [
        ("Succeeded", succeeded, state.reason, state.message),
        ("SpecValid", *_spec_valid(state)),
        _queued(state),
        (
            "Suspended",
            _truth(phase == Phase.SUSPENDED),
            "Suspended" if phase == Phase.SUSPENDED else "NotSuspended",
            "",
        ),
        ("Ready", _truth(phase == Phase.SUCCEEDED), state.reason, state.message),
        ("Reconciling", _truth(at_work and not stalled), state.reason, ""),
        ("Stalled", _truth(stalled), state.reason, state.message if stalled else ""),
    ]
    before = {condition.type: condition for condition in previous.conditions}
    return [_condition(*word, before.get(word[0]), generation, now) for word in words]


def _queued(state: RunState) -> tuple[str, str, str, str]:
    if state.phase == Phase.QUEUED:
        return "Queued", "True", state.reason, state.message
    return "Queued", "False", "NotQueued", ""


def _spec_valid(state: RunState) -> tuple[str, str, str]:
    if state.violation:
        return "False", POLICY_VIOLATION, state.violation
    return ("True", "Valid", "") if state.spec_valid else ("False", "Invalid", state.message)


def _condition(
    kind: str, status: str, reason: str, message: str, before: Condition | None, generation: int, now: datetime
) -> Condition:
    kept = before is not None and before.status == status
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:4096],
        observed_generation=generation,
        last_transition_time=before.last_transition_time if kept and before else rfc3339(now),
    )


def _truth(value: bool) -> str:
    return "True" if value else "False"


def _progress(state: RunState) -> str:
    """`2/5 120/250 (48 %)`: stages done of all, then the running stage's own steps."""
    if not state.stages:
        return "0/0"
    done = sum(stage.state in (StageState.SUCCEEDED, StageState.REUSED) for stage in state.stages)
    text = f"{done}/{len(state.stages)}"
    progress = state.stage.progress if state.stage else None
    if progress and progress.step is not None and progress.total:
        text += f" {progress.step}/{progress.total} ({100 * progress.step // progress.total} %)"
    return text


def _loss(state: RunState) -> str | None:
    """The latest training loss: of the running stage, else as the training pass's metrics have it."""
    for stage in reversed(state.stages):
        if stage.progress and stage.progress.loss is not None:
            return f"{stage.progress.loss:.4g}"
        if stage.metrics and "train_loss" in stage.metrics:
            return f"{stage.metrics['train_loss']:.4g}"
    return None


def blocked(status: Status, previous: Status, undone: Sequence[str], message: str) -> Status:
    """`status` with the API server's words, where it refused what a stage needs (a quota, a policy).

    `undone` are the stages of what was not carried out, the refused one first; an empty name is the plan. Their
    records are those of `previous`: a Job that was never made must not be missed as one that was taken away.
    """
    said = plain(f"{undone[0] or 'plan'}: the API server refused it: {message}", 1024)
    before = {stage.name: stage for stage in previous.stages}
    stages = [
        _not_made(item, before.get(item.name)).model_copy(update={"reason": "CreateRefused", "message": said})
        if item.name in undone
        else item
        for item in status.stages
    ]
    conditions = [
        item.model_copy(update={"reason": "CreateRefused", "message": said})
        if item.type in ("Succeeded", "Reconciling")
        else item
        for item in status.conditions
    ]
    plan = previous.plan if "" in undone else status.plan
    return status.model_copy(update={"stages": stages, "conditions": conditions, "message": said, "plan": plan})


def broken(previous: Status, generation: int, error: Exception, now: datetime) -> Status:
    """`previous` with the operator's own failure to decide about the job; nothing else in it is known to be wrong."""
    words = plain(f"{type(error).__name__}: {error}", 512)
    state = RunState(
        previous.phase or Phase.PENDING,
        Reason.INTERNAL,
        f"The operator failed at this job, and tries again: {words}",
        stages=previous.stages,
        artifacts=previous.artifacts,
        pins=previous.pins,
        plan=previous.plan,
    )
    return summarise(state, generation, previous, now)


def withheld(state: RunState, previous: Status, unmade: Collection[str], violation: str, *, at_work: bool) -> RunState:
    """`state` where the namespace's policies forbid the Jobs and the plan that it counts on, those named `unmade`.

    `at_work`: whether a Job still runs. Once none does, the run has failed until spec or policies change. What has
    ended, and needs nothing more, is not judged again.
    """
    if not unmade:
        return state if state.phase in FINAL else replace(state, violation=violation)
    held = _held_back(state, previous, unmade, POLICY_VIOLATION, violation)
    return replace(held, phase=state.phase if at_work else Phase.FAILED, violation=violation)


def waiting_for_place(state: RunState, previous: Status, unmade: Collection[str], why: str) -> RunState:
    """`state` where the Jobs named `unmade` are not made yet, since as many jobs of the namespace run as may."""
    return replace(_held_back(state, previous, unmade, RUNNING_JOBS_LIMIT, why), phase=Phase.QUEUED)


def _held_back(state: RunState, previous: Status, unmade: Collection[str], reason: str, why: str) -> RunState:
    """`state` without the Jobs and the plan that it counts on, those named `unmade`."""
    before = {stage.name: stage for stage in previous.stages}
    # What is held back waits for nobody's pod.
    said = {"state": StageState.PENDING, "reason": reason, "message": plain(why, 1024), "waiting_since": None}
    stages = [
        _not_made(stage, before.get(stage.name)).model_copy(update=said) if stage.job in unmade else stage
        for stage in state.stages
    ]
    return replace(
        state,
        reason=reason,
        message=why,
        stages=stages,
        stage=None,
        plan=previous.plan if state.plan and state.plan.name in unmade else state.plan,
    )


def _not_made(stage: StageStatus, before: StageStatus | None) -> StageStatus:
    """`stage` with the tries that it had before the last one was asked for in vain."""
    if before is None or before.key != stage.key:
        return stage.model_copy(
            update={"job": None, "attempts": 0, "retries": 0, "started_at": None, "attempted_at": None}
        )
    kept = {name: getattr(before, name) for name in ("job", "attempts", "retries", "started_at", "attempted_at")}
    return stage.model_copy(update=kept)
