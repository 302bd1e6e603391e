"""What a metric came to, and what a stage's result says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune_trainer.evaluation.bootstrap import Rows

MOST_FIGURES = 24  # of a stage result


@dataclass(frozen=True)
class Measured:
    """A metric's `value`, `figures` that help to judge it, the most telling first, and `detail` for the summary.

    `rows` [n, 2] are what a metric about rows is made of: a figure of each row and its weight, the value being a
    function of the figures' sum over the weights' (accuracy: 1 where right, and 1; perplexity: nats, and tokens).
    """

    type: str
    value: float
    figures: dict[str, float]
    detail: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    rows: Rows = field(default_factory=lambda: np.empty((0, 2)), compare=False)


def figures(found: Mapping[str, Measured], met: Mapping[str, bool]) -> dict[str, float]:
    """What the result says of each metric: as many figures, the most telling first, as a result has room for.

    `met` says of metrics with a goal whether they reached it: 1 or 0 in `<metric>/goal`.
    """
    room = MOST_FIGURES // max(1, len(found))
    result: dict[str, float] = {}
    for name, measured in found.items():
        goal = {f"{name}/goal": float(met[name])} if name in met else {}
        ordered = {name: measured.value, **goal}
        ordered |= {f"{name}/{figure}": value for figure, value in measured.figures.items()}
        result.update(list(ordered.items())[:room])
    return result
