"""Progress as lines and as a tree."""

from __future__ import annotations

import io

from rich.console import Console

from finetune_api.status import StageProgress, StageState, StageStatus, Status
from finetune_cli.display.lines import Lines
from finetune_cli.display.live import Tree


def status(*stages: StageStatus) -> Status:
    return Status(stages=list(stages))


PENDING = StageStatus(name="lora", state=StageState.PENDING)
STARTED = StageStatus(name="lora", state=StageState.PENDING, job="j", reason="Starting", message="Its pod is starting.")
STUCK = StageStatus(
    name="lora", state=StageState.PENDING, job="j", reason="Unschedulable", message="1 Insufficient nvidia.com/gpu."
)
RUNNING = StageStatus(name="lora", state=StageState.RUNNING, job="j", progress=StageProgress(step=1, total=4, loss=0.5))
DONE = StageStatus(
    name="lora",
    state=StageState.SUCCEEDED,
    job="j",
    started_at="2026-11-23T10:00:00Z",
    finished_at="2026-11-23T10:00:09Z",
)


def test_one_line_for_each_change_and_none_for_what_is_to_come() -> None:
    written: list[str] = []
    seconds = iter([0.0, 1.0, 2.0, 9.0])
    lines = Lines(written.append, lambda: next(seconds))
    for item in (PENDING, STARTED, STUCK, STUCK, RUNNING, RUNNING, DONE):
        lines.update(status(item))
    assert written == [
        "[   1.0s] lora  Pending    1 Insufficient nvidia.com/gpu.",
        "[   2.0s] lora  Running    1/4 (25 %)  loss 0.5",
        "[   9.0s] lora  Succeeded  9 s",
    ]


def test_a_tree_shows_state_step_and_words() -> None:
    output = io.StringIO()
    tree = Tree(Console(file=output, force_terminal=True, width=120, color_system=None))
    for item in (PENDING, STARTED, RUNNING):
        tree.update(status(item))
    tree.close()
    (last,) = [line for line in output.getvalue().splitlines() if "lora" in line][-1:]
    assert "▶ lora" in last
    assert "Running" in last
    assert "1/4 (25 %)  loss 0.5" in last


def test_a_tree_does_not_read_markup_in_what_a_pod_says() -> None:
    output = io.StringIO()
    tree = Tree(Console(file=output, force_terminal=True, width=120, color_system=None))
    evil = RUNNING.model_copy(update={"progress": StageProgress(activity="[link=file:///x]click[/link] [/]")})
    tree.update(status(evil))
    tree.close()
    assert "[link=file:///x]click[/link] [/]" in output.getvalue()
