"""Two models on the same rows: by how much they differ, and how sure that is.

What makes a row hard makes it hard for both. So rows are compared pair by pair, and the difference is known better than
either figure alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from finetune_api.evaluators import Goal, Metric
from finetune_trainer.evaluation.bootstrap import Rows
from finetune_trainer.evaluation.bounds import lower_bound
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.goals import bound_of

_Z95 = 1.959964  # the standard normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Difference:
    """A difference in a metric's unit, and its interval."""

    value: float
    low: float
    high: float


def margin(metric: Metric, goal: Goal, found: Measured, source: Measured, tail: float) -> Difference:
    """By how much `found` is on the good side of what `goal` asks for beside `source`; below 0 where it misses it.

    Both were measured on the same rows, in the same order. A figure that is infinite misses by infinitely much. The
    truth is below the interval with a chance of `tail`, and above it with the same: exactly so or less for an accuracy,
    about so for a perplexity over some 50 rows or more.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    bound = bound_of(goal, metric.higher_is_better, source.value)
    value = sign * (found.value - bound)
    if not math.isfinite(value):
        return Difference(-math.inf, -math.inf, -math.inf)
    if math.isclose(found.value, bound, rel_tol=1e-12):
        value = 0.0
    if metric.type == "accuracy":
        low, high = _accuracy_bounds(found.rows[:, 0], source.rows[:, 0], goal, tail)
    else:
        low, high = _perplexity_bounds(found.rows, source.rows, goal, tail)
    return Difference(value, low, high)


def accuracy_difference(found: Rows, source: Rows) -> Difference:
    """The accuracy of `found` less that of `source`, and its 95 % interval: 1 for every row that is right, else 0.

    Half a row is added to each of the four pairs of answers: the interval is then right where few rows differ, and not
    empty where none do (Agresti and Min 2005, doi:10.1002/sim.1781).
    """
    pairs = [(own, other) for own in (0.0, 1.0) for other in (0.0, 1.0)]
    counts = _counted(found, source, pairs) + 0.5
    values = np.array([own - other for own, other in pairs])
    n = counts.sum()
    mean = float((counts * values).sum() / n)
    spread = _Z95 * math.sqrt(float(((counts * (values - mean) ** 2).sum() / n) / n))
    return Difference(float(found.mean() - source.mean()), mean - spread, mean + spread)


def _counted(found: Rows, source: Rows, pairs: list[tuple[float, float]]) -> Rows:
    """How many rows have each pair of answers."""
    return np.array([np.sum((found == own) & (source == other)) for own, other in pairs], float)


def _accuracy_bounds(found: Rows, source: Rows, goal: Goal, tail: float) -> tuple[float, float]:
    """Of mean(found) − bound(mean(source)), the bound being a share of the mean and a constant.

    The worst row is one that the source alone has right, the best one that it alone has wrong.
    """
    constant = bound_of(goal, True, 0.0)
    share = bound_of(goal, True, 1.0) - constant
    pairs = [(own, other) for own in (0.0, 1.0) for other in (0.0, 1.0)]
    counts = _counted(found, source, pairs)
    values = np.array([own - share * other for own, other in pairs])

    def room(weights: Rows) -> Rows:
        return weights @ values / weights.sum(-1) - constant

    low = lower_bound(room, counts, int(values.argmin()), tail)
    return low, -lower_bound(lambda weights: -room(weights), counts, int(values.argmax()), tail)


def _perplexity_bounds(found: Rows, source: Rows, goal: Goal, tail: float) -> tuple[float, float]:
    """Of bound(perplexity of source) − perplexity of found, weighting the same rows of both.

    A loss has no end, so the worst row is the one that was seen to pull the figure down the most, by its derivative.
    """
    constant = bound_of(goal, False, 0.0)
    share = bound_of(goal, False, 1.0) - constant
    every = np.ones((1, len(found)))

    def room(weights: Rows) -> Rows:
        with np.errstate(over="ignore"):
            return share * _perplexity(source, weights) + constant - _perplexity(found, weights)

    def pull(rows: Rows) -> Rows:
        whole = float(_perplexity(rows, every)[0])
        return whole * (rows[:, 0] - math.log(whole) * rows[:, 1])

    pulls = share * pull(source) - pull(found)
    counts = np.ones(len(found))
    low = lower_bound(room, counts, int(pulls.argmin()), tail)
    return low, -lower_bound(lambda weights: -room(weights), counts, int(pulls.argmax()), tail)


def _perplexity(rows: Rows, weights: Rows) -> Rows:
    """Of rows [n, 2] of nats and tokens, with each of the weights [draws, n]: [draws]."""
    return np.exp((weights @ rows[:, 0]) / (weights @ rows[:, 1]))
