"""A status as a picture: on a terminal of any width, and in a pipe."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from finetune_api.status import ArtifactStatus, Condition, Phase, StageProgress, StageState, StageStatus, Status
from finetune_cli.display.outcome import outcome
from finetune_cli.display.tree import show

JOB = {"metadata": {"namespace": "team", "name": "tones", "generation": 2}}
START = "2026-11-23T10:00:00Z"
NOW = datetime(2026, 11, 23, 10, 1, 10, tzinfo=UTC)
RUNNING = Status(
    phase=Phase.RUNNING,
    started_at=START,
    message="lora is running.",
    stages=[
        StageStatus(
            name="prepare",
            state=StageState.SUCCEEDED,
            attempts=1,
            started_at=START,
            finished_at="2026-11-23T10:00:09Z",
            metrics={"rows": 600},
        ),
        StageStatus(
            name="lora",
            state=StageState.RUNNING,
            attempts=1,
            retries=1,
            started_at="2026-11-23T10:00:10Z",
            progress=StageProgress(step=50, total=200, loss=0.41),
        ),
        StageStatus(name="merge", state=StageState.PENDING),
    ],
)


def shown(status: Status, *, width: int = 110, terminal: bool = False) -> list[str]:
    file = io.StringIO()
    show(Console(file=file, width=width, force_terminal=terminal, color_system=None), JOB, status, NOW)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def condition(status: Any, reason: str, message: str = "") -> Condition:
    return Condition(type="Succeeded", status=status, reason=reason, message=message, last_transition_time=START)


@pytest.mark.parametrize("width", [80, 110])
def test_a_running_job_as_a_tree(width: int) -> None:
    lines = [" ".join(line.split()) for line in shown(RUNNING, width=width, terminal=True)]
    full, quarter = ("━" * 12 + " ", "━" * 3 + " ") if width == 110 else ("", "")
    assert lines == [
        "team/tones Running generation 2 1 min 10 s",
        f"├─ ✓ prepare Succeeded {full}9 s 600 rows",
        f"├─ ▶ lora Running {quarter}1 min 0 s try 2 50/200 (25 %) loss 0.41",
        "└─ · merge Pending",
        "lora is running.",
    ]


def test_in_a_pipe_it_is_columns_whatever_the_width() -> None:
    for width in (20, 200):
        assert shown(RUNNING, width=width) == [
            "team/tones  Running  generation 2  1 min 10 s",
            "STAGE    STATE      TIME       TRIES  FIGURES",
            "prepare  Succeeded  9 s        1      600 rows",
            "lora     Running    1 min 0 s  2      50/200 (25 %)  loss 0.41",
            "merge    Pending    -          -",
            "lora is running.",
        ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failed_job_says_why_in_full(terminal: bool) -> None:
    message = "host memory ran out. " + "Raise the limit. " * 20 + "End."
    stage = StageStatus(name="lora", state=StageState.FAILED, reason="OutOfMemory", message=message)
    status = Status(phase=Phase.FAILED, stages=[stage], conditions=[condition("False", "OutOfMemory", message)])
    lines = shown(status, terminal=terminal)
    assert lines[-1] == f"OutOfMemory: {message}"
    if terminal:
        assert all(cell_len(line) <= 110 for line in lines[:-1])


def test_a_failed_job_says_where_its_evidence_is() -> None:
    stage = StageStatus(name="lora", state=StageState.FAILED, reason="Stalled", evidence="s3://b/failures/k/a1")
    status = Status(phase=Phase.FAILED, stages=[stage], conditions=[condition("False", "Stalled", "m")])
    assert shown(status)[-1] == "lora's last log lines, traceback and document: s3://b/failures/k/a1"


def test_addresses_of_artifacts_are_never_broken() -> None:
    artifact = ArtifactStatus(
        name="onnx", stage="int4", uri="s3://b/" + "x" * 150, manifest="s3://b/m", digest="d", bytes=12_300
    )
    done = Status(phase=Phase.SUCCEEDED, conditions=[condition("True", "Done")], artifacts=[artifact])
    for terminal in (True, False):
        assert shown(done, terminal=terminal)[-1].split() == ["onnx", "12.3", "kB", artifact.uri]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (
            {"seen": 0.995, "seen/low": 0.972, "seen/high": 0.999, "seen/n": 200, "seen/majority": 0.25},
            "seen 99.5 % [97.2, 99.9]",
        ),
        ({"samples": 800, "steps": 200, "tokens_per_second": 3443.4}, "200 steps  3443 tokens/s"),
        ({"perplexity": 2.1314, "perplexity_ratio": 1.0213, "texts": 64}, "perplexity 2.131  1.021 × its source's"),
        (None, ""),
    ],
)
def test_what_a_stage_comes_to(metrics: dict[str, float] | None, words: str) -> None:
    assert outcome(StageStatus(name="s", state=StageState.SUCCEEDED, metrics=metrics)) == words


def test_what_a_reused_stage_says_is_that() -> None:
    message = "its result is in the store already"
    assert outcome(StageStatus(name="s", state=StageState.REUSED, message=message)) == message
