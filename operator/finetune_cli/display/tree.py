"""A status as one picture: the run, its stages with their bars, and what was published."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune_api.status import Phase, StageState, StageStatus, Status
from finetune_cli.display.bars import COLOURS, extent
from finetune_cli.jobfile import Body
from finetune_cli.words import ended, failure, figures, remark, size, took

BAR_WIDTH = 18
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


def tree(job: Body, status: Status, now: datetime | None = None) -> RenderableType:
    """The job's status as it is at `now`, the present by default."""
    moment = (now or datetime.now(UTC)).isoformat()
    parts: list[RenderableType] = [_head(job, status, moment), _stages(status, moment)]
    if ended(status) is False:
        parts.append(Text(failure(status), style="red"))
    elif status.message and ended(status) is None:
        parts.append(Text(status.message, style="dim"))
    if status.artifacts:
        parts.append(_artifacts(status))
    return Group(*parts)


def _head(job: Body, status: Status, moment: str) -> Text:
    metadata = job["metadata"]
    text = Text(f"{metadata['namespace']}/{metadata['name']}  ")
    text.append(str(status.phase), style=PHASES.get(status.phase, "bold"))
    text.append(f"  generation {metadata['generation']}")
    elapsed = took(status.started_at, status.finished_at or moment)
    return text.append(f"  {elapsed}" if elapsed else "")


def _stages(status: Status, moment: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
    for title in ("", "STAGE", "STATE", "", "TIME", "TRIES"):
        table.add_column(title, no_wrap=True)
    table.add_column("", overflow="fold", ratio=1)
    for place, stage in enumerate(status.stages):
        branch = "└─" if place == len(status.stages) - 1 else "├─"
        table.add_row(
            Text(branch, style="dim"),
            Text.assemble((f"{MARKS[stage.state]} ", COLOURS.get(stage.state, "dim")), stage.name),
            Text(str(stage.state), style=COLOURS.get(stage.state, "dim")),
            _bar(stage),
            _time(stage, moment),
            str(stage.attempts + stage.retries or ""),
            Text(_words(stage)),
        )
    return table


def _bar(stage: StageStatus) -> ProgressBar:
    done, total = extent(stage)
    # A still picture cannot pulse: a stage without a total has an empty bar.
    return ProgressBar(total=total or 1, completed=done if total else 0, width=BAR_WIDTH)


def _time(stage: StageStatus, moment: str) -> str:
    running = moment if stage.state == StageState.RUNNING else None
    return took(stage.started_at, stage.finished_at or running)


def _words(stage: StageStatus) -> str:
    if stage.state == StageState.SUCCEEDED:
        return "  ".join(f"{name} {value:.4g}" for name, value in list((stage.metrics or {}).items())[:4])
    return figures(stage.progress) if stage.progress and stage.state == StageState.RUNNING else remark(stage)


def _artifacts(status: Status) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
    for title in ("ARTIFACT", "SIZE", "URI"):
        table.add_column(title, no_wrap=title != "URI", overflow="fold")
    for artifact in status.artifacts:
        table.add_row(artifact.name, size(artifact.bytes or 0), artifact.uri)
    return table
