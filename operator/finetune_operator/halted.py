"""Runs that must not go on: a spec that is refused, and one that is suspended. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from finetune_api.outline import PUBLISH
from finetune_api.problems import Problem
from finetune_api.status import Phase, StageState, StageStatus
from finetune_operator.actions import Outcome, Seen, Stop
from finetune_operator.attempts import DONE
from finetune_operator.clocks import stopped
from finetune_operator.conditions import RunState, summarise
from finetune_operator.view import JobView


def refused(view: JobView, seen: Seen, problems: Sequence[Problem], now: datetime) -> Outcome:
    """Stop what runs; status says all that is wrong with the spec."""
    message = "; ".join(str(found) for found in problems)
    # What is recorded as done stays recorded: a corrected spec goes on from it.
    done = [stage for stage in view.status.stages if stage.state in DONE and stage.name != PUBLISH]
    state = RunState(
        Phase.FAILED,
        "SpecInvalid",
        message,
        spec_valid=False,
        stages=done,
        pins=view.status.pins,
        plan=view.status.plan,
    )
    status = summarise(state, view.owner.generation, view.status, now)
    return Outcome([Stop(attempt) for attempt in seen.running()], status)


def suspended(view: JobView, seen: Seen, now: datetime) -> Outcome:
    """Stop what runs, until the spec is suspended no more."""
    before = view.status
    state = RunState(
        phase=Phase.SUSPENDED,
        reason="Suspended",
        message="Nothing runs until spec.suspend is false.",
        stages=[
            stage if stage.state in (*DONE, StageState.FAILED) else _at_rest(stage, now)
            for stage in before.stages
            if stage.name != PUBLISH or stage.state not in DONE
        ],
        pins=before.pins,
        plan=before.plan,
    )
    status = summarise(state, view.owner.generation, before, now)
    return Outcome([Stop(attempt) for attempt in seen.running()], status)


def _at_rest(stage: StageStatus, now: datetime) -> StageStatus:
    update = {"state": StageState.SUSPENDED, "reason": "Suspended", "waiting_since": None}
    return stopped(stage, now).model_copy(update=update)
