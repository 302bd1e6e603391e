"""Status in words."""

from __future__ import annotations

import pytest

from finetune_api.status import Condition, StageProgress, StageState, StageStatus, Status
from finetune_cli import words


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1_400_000, "1.4 MB"), (2_700_000_000, "2.7 GB")]
)
def test_size(count: int, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_span(seconds: float, text: str) -> None:
    assert words.span(seconds) == text


def test_took() -> None:
    assert words.took("2026-11-23T10:00:00Z", "2026-11-23T10:01:05Z") == "1 min 5 s"
    assert words.took(None, "2026-11-23T10:01:05Z") == ""


def test_figures_say_what_there_is() -> None:
    progress = StageProgress(step=120, total=250, loss=0.41234, tokens_per_second=4210.3, eta_seconds=6)
    assert words.figures(progress) == "120/250 (48 %)  loss 0.4123  4210 tokens/s  ETA 6 s"
    assert words.figures(StageProgress(activity="loading the model")) == "loading the model"
    assert "ETA" not in words.figures(StageProgress(step=5, total=5, eta_seconds=0))


def test_remark_of_a_failed_stage_is_its_reason() -> None:
    stage = StageStatus(name="prepare", state=StageState.FAILED, reason="DataNotFound", message="no such file")
    assert words.remark(stage) == "DataNotFound: no such file"


@pytest.mark.parametrize(("verdict", "expected"), [("True", True), ("False", False), ("Unknown", None)])
def test_the_condition_decides_how_a_run_ended(verdict: str, expected: bool | None) -> None:
    condition = Condition(type="Succeeded", status=verdict, reason="R", message="m", last_transition_time="")
    assert words.ended(Status(conditions=[condition])) is expected
    assert words.failure(Status(conditions=[condition])) == "R: m"
    assert words.ended(Status()) is None
