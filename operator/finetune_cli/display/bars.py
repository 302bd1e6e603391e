"""One bar for each stage, on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Column

from finetune_api.status import StageState, StageStatus, Status
from finetune_cli.words import remark

_DONE = (StageState.SUCCEEDED, StageState.REUSED)
COLOURS = {
    StageState.RUNNING: "cyan",
    StageState.SUCCEEDED: "green",
    StageState.REUSED: "green",
    StageState.FAILED: "red",
}


class _StageBar(BarColumn):
    """A bar that stays empty, instead of pulsing, while its stage waits for its turn."""

    def render(self, task: Task) -> ProgressBar:
        """The task's bar."""
        return super().render(task) if task.started else ProgressBar(total=1, completed=0, width=self.bar_width)


class Bars:
    """A live table of bars: a stage that says step and total fills its own, another one pulses while it runs."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            _StageBar(bar_width=20),
            TimeElapsedColumn(),
            # What is too long for the terminal is cut here, and stands in full below the bars where a stage failed.
            TextColumn(
                "{task.fields[words]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            console=console,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def update(self, status: Status) -> None:
        """Show every stage as it is."""
        for stage in status.stages:
            task = self._tasks.get(stage.name)
            if task is None:
                task = self._progress.add_task(stage.name, start=False, total=None, state="", words="")
                self._tasks[stage.name] = task
            self._show(task, stage)

    def close(self) -> None:
        """Leave the last picture, and give the terminal back."""
        self._progress.stop()

    def _show(self, task: TaskID, stage: StageStatus) -> None:
        known = next(item for item in self._progress.tasks if item.id == task)
        if stage.job and known.start_time is None:
            self._progress.start_task(task)
        colour = COLOURS.get(stage.state, "dim")
        done, total = extent(stage)
        self._progress.update(
            task,
            completed=done,
            total=total,
            state=f"[{colour}]{stage.state:<9}[/]",
            words=remark(stage),
        )
        if stage.state in (*_DONE, StageState.FAILED):
            self._progress.stop_task(task)


def extent(stage: StageStatus) -> tuple[float, float | None]:
    """(done, total) of the stage's bar; without a total it pulses."""
    if stage.state in _DONE:
        return 1, 1
    if stage.progress and stage.progress.step is not None and stage.progress.total:
        return stage.progress.step, stage.progress.total
    return 0, None if stage.state == StageState.RUNNING else 1
