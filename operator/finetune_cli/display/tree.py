"""A status as one picture: the run, its stages with their bars, and what was published."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune_api.status import Phase, StageState, StageStatus, Status
from finetune_cli.display.outcome import outcome
from finetune_cli.jobfile import Body
from finetune_cli.words import ended, evidence, failure, size, took

BAR_WIDTH = 12
# A narrower terminal has no room for bars beside the figures.
BARS_FROM = 100
_DONE = (StageState.SUCCEEDED, StageState.REUSED)
COLOURS = {
    StageState.RUNNING: "cyan",
    StageState.SUCCEEDED: "green",
    StageState.REUSED: "green",
    StageState.FAILED: "red",
}
MARKS = {
    StageState.PENDING: "·",
    StageState.QUEUED: "…",
    StageState.RUNNING: "▶",
    StageState.SUCCEEDED: "✓",
    StageState.REUSED: "✓",
    StageState.FAILED: "✗",
    StageState.SUSPENDED: "‖",
}
PHASES = {Phase.SUCCEEDED: "bold green", Phase.FAILED: "bold red", Phase.RUNNING: "bold cyan"}


def show(console: Console, job: Body, status: Status, now: datetime | None = None) -> None:
    """Print the job's status as it is at `now`, the present by default.

    A tree with bars on a terminal. Elsewhere lines whose columns are separated by two spaces or more, none cut, for
    `grep` and `awk`.
    """
    moment = (now or datetime.now(UTC)).isoformat()
    _line(console, _head(job, status, moment))
    if console.is_terminal:
        console.print(stages(console, status, moment))
    else:
        rows = [_cells(item, moment) for item in status.stages]
        _columns(console, ("STAGE", "STATE", "TIME", "TRIES", "FIGURES"), rows)
    show_end(console, status)


def show_end(console: Console, status: Status) -> None:
    """What stands below the stages: why the job failed or waits, and what it has published."""
    if ended(status) is False:
        _line(console, Text(failure(status), style="red"))
        for line in evidence(status):
            _line(console, Text(line, style="dim"))
    elif status.message and ended(status) is None:
        _line(console, Text(status.message, style="dim"))
    if status.artifacts:
        rows = [(item.name, size(item.bytes or 0), item.uri) for item in status.artifacts]
        _columns(console, ("ARTIFACT", "SIZE", "URI"), rows)


def stages(console: Console, status: Status, moment: str, *, pulse: bool = False) -> Table:
    """The stages with their bars, as wide as `console`; those that say no total pulse, or have an empty bar."""
    bar = BAR_WIDTH if console.width >= BARS_FROM else 0
    table = Table(box=None, pad_edge=False, show_edge=False, show_header=False, padding=(0, 2, 0, 0))
    rows = [_cells(stage, moment) for stage in status.stages]
    name, state, time = (max((len(row[place]) for row in rows), default=0) for place in range(3))
    for width in (len("├─ ✓ ") + name, state, bar, time):
        table.add_column(no_wrap=True, min_width=width)
    # What is too long for the terminal is cut: why a job waits or failed stands in full below the tree.
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for place, (stage, cells) in enumerate(zip(status.stages, rows, strict=True)):
        branch = "└─" if place == len(status.stages) - 1 else "├─"
        colour = COLOURS.get(stage.state, "dim")
        again = (f"try {cells[3]}  ", "yellow") if cells[3] not in ("-", "1") else ""
        table.add_row(
            Text.assemble((f"{branch} ", "dim"), (f"{MARKS[stage.state]} ", colour), stage.name),
            Text(cells[1], style=colour),
            _bar(stage, bar, pulse),
            Text(cells[2] if cells[2] != "-" else ""),
            Text.assemble(again, (cells[4], "red" if stage.state == StageState.FAILED else "")),
        )
    return table


def _head(job: Body, status: Status, moment: str) -> Text:
    metadata = job["metadata"]
    text = Text(f"{metadata['namespace']}/{metadata['name']}  ")
    text.append(str(status.phase), style=PHASES.get(status.phase, "bold"))
    text.append(f"  generation {metadata['generation']}")
    elapsed = took(status.started_at, status.finished_at or moment)
    return text.append(f"  {elapsed}" if elapsed else "")


def _cells(stage: StageStatus, moment: str) -> tuple[str, ...]:
    tries = str(stage.attempts + stage.retries or "-")
    return (stage.name, str(stage.state), _time(stage, moment) or "-", tries, outcome(stage))


def _bar(stage: StageStatus, width: int, pulse: bool) -> ProgressBar | str:
    if not width:
        return ""
    done, total = extent(stage)
    if total is None and pulse:
        return ProgressBar(total=None, pulse=True, width=width)
    return ProgressBar(total=total or 1, completed=done if total else 0, width=width)


def extent(stage: StageStatus) -> tuple[float, float | None]:
    """(done, total) of the stage's bar; no total where it runs and says none."""
    if stage.state in _DONE:
        return 1, 1
    if stage.progress and stage.progress.step is not None and stage.progress.total:
        return stage.progress.step, stage.progress.total
    return 0, None if stage.state == StageState.RUNNING else 1


def _time(stage: StageStatus, moment: str) -> str:
    running = moment if stage.state == StageState.RUNNING else None
    return took(stage.started_at, stage.finished_at or running)


def _columns(console: Console, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table whose last column is as long as it is: a terminal breaks it, and copies it whole."""
    widths = [max(len(row[index]) for row in [heads, *rows]) for index in range(len(heads))]
    for number, row in enumerate([heads, *rows]):
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        _line(console, Text(text, style="dim" if number == 0 else ""))


def _line(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)
