"""Two models on the same rows: by how much they differ, and how sure that is.

What makes a row hard makes it hard for both. So rows are compared pair by pair, and the difference is known better than
either figure alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune_api.evaluators import Goal, Metric
from finetune_trainer.evaluation import bootstrap
from finetune_trainer.evaluation.bootstrap import Rows
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.goals import bound_of

_Z95 = 1.959964  # the standard normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Difference:
    """A difference in a metric's unit, and its 95 % interval."""

    value: float
    low: float
    high: float


def margin(metric: Metric, goal: Goal, found: Measured, source: Measured) -> Difference:
    """By how much `found` is on the good side of what `goal` asks for beside `source`; below 0 where it misses it.

    Both were measured on the same rows, in the same order. A figure that is infinite misses by infinitely much.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    value = sign * (found.value - bound_of(goal, metric.higher_is_better, source.value))
    if not math.isfinite(value):
        return Difference(-math.inf, -math.inf, -math.inf)
    if metric.type == "accuracy":
        low, high = _accuracy_interval(found.rows[:, 0], source.rows[:, 0], goal)
    else:
        low, high = _perplexity_interval(found.rows, source.rows, goal)
    return Difference(value, low, high)


def accuracy_difference(found: Rows, source: Rows) -> Difference:
    """The accuracy of `found` less that of `source`: 1 for every row that is right, 0 for others."""
    low, high = _accuracy_interval(found, source, Goal(type="max-degradation", value=0))
    return Difference(float(found.mean() - source.mean()), low, high)


def _accuracy_interval(found: Rows, source: Rows, goal: Goal) -> tuple[float, float]:
    """Of mean(found) − bound(mean(source)), the bound being a share of the mean and a constant.

    Half a row is added to each of the four pairs of answers: the interval is then right where few rows differ, and not
    empty where none do (Agresti and Min 2005, doi:10.1002/sim.1781; there the share is 1).
    """
    constant = bound_of(goal, True, 0.0)
    share = bound_of(goal, True, 1.0) - constant
    pairs = [(own, other) for own in (0.0, 1.0) for other in (0.0, 1.0)]
    counts = np.array([np.sum((found == own) & (source == other)) + 0.5 for own, other in pairs])
    values = np.array([own - share * other for own, other in pairs])
    n = counts.sum()
    mean = float((counts * values).sum() / n)
    spread = _Z95 * math.sqrt(float(((counts * (values - mean) ** 2).sum() / n) / n))
    return mean - spread - constant, mean + spread - constant


def _perplexity_interval(found: Rows, source: Rows, goal: Goal) -> tuple[float, float]:
    """Of bound(perplexity of source) − perplexity of found, drawing the same rows for both."""
    one = bound_of(goal, False, 1.0)
    constant = bound_of(goal, False, 0.0)

    def room(drawn: npt.NDArray[np.int64]) -> Rows:
        with np.errstate(over="ignore"):
            own, other = (np.exp(rows[drawn, 0].sum(-1) / rows[drawn, 1].sum(-1)) for rows in (found, source))
        return (one - constant) * other + constant - own

    return bootstrap.interval(room, len(found))
