"""The accuracies that a run's own evaluation stages measured, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_api.status import StageStatus


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its 95 % interval (Wilson), all between 0 and 1, over `n` rows."""

    stage: str
    metric: str
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:5.1f} %  [{100 * self.low:.1f}, {100 * self.high:.1f}]  n={self.n}"


def accuracies(stages: Sequence[StageStatus]) -> dict[tuple[str, str], Accuracy]:
    """By stage and metric, what evaluation stages measured."""
    return {(item.stage, item.metric): item for stage in stages for item in _of_stage(stage)}


def _of_stage(stage: StageStatus) -> Iterator[Accuracy]:
    figures = stage.metrics or {}
    for name, value in figures.items():
        if f"{name}/n" in figures:
            yield Accuracy(
                stage.name,
                name,
                value,
                figures.get(f"{name}/low", value),
                figures.get(f"{name}/high", value),
                int(figures[f"{name}/n"]),
            )


def table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Lines of a table: `columns` are the heads, the first of the rows' names."""
    cells = [list(columns), *([name, *values] for name, values in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
