"""Two models on the same rows: margins, and whether their intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finetune_api.evaluators import Goal, Metric
from finetune_trainer.evaluation import answers, perplexity
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.paired import accuracy_difference, margin
from finetune_trainer.evaluation.perplexity import Score

ACCURACY = Metric.model_validate({"name": "m", "type": "accuracy"})
PERPLEXITY = Metric.model_validate({"name": "m", "type": "perplexity"})
TEN_PERCENT = Goal(type="percent-max-degradation", value=10)


def accuracy(right: np.ndarray) -> Measured:
    return answers.measure(["yes" if item else "no" for item in right], ["yes"] * len(right))


def of_cells(both: int, source_only: int, found_only: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """(found, source) with so many rows that both, one, or neither had right."""
    found = [1] * both + [0] * source_only + [1] * found_only + [0] * neither
    source = [1] * both + [1] * source_only + [0] * found_only + [0] * neither
    return np.array(found, float), np.array(source, float)


def test_the_interval_of_a_difference_is_agresti_and_mins() -> None:
    """Their example, approval ratings: 794, 150, 86, 570 of 1600; 0.5 added to each cell."""
    found, source = of_cells(794, 150, 86, 570)
    said = accuracy_difference(found, source)
    assert said.value == pytest.approx(-0.04)
    n, gained, lost = 1602, 86.5, 150.5
    mean = (gained - lost) / n
    spread = 1.959964 * math.sqrt((gained + lost) / n - mean**2) / math.sqrt(n)
    assert (said.low, said.high) == pytest.approx((mean - spread, mean + spread))
    assert said.low == pytest.approx(-0.0588, abs=2e-4)


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        (Goal(type="threshold", value=0.8), 0.05),
        (Goal(type="max-degradation", value=0.1), 0.0),
        (Goal(type="max-degradation", value=0.05), -0.05),
        (TEN_PERCENT, 0.85 - 0.9 * 0.95),
    ],
)
def test_a_margin_is_the_distance_to_the_goals_bound(goal: Goal, expected: float) -> None:
    found, source = of_cells(170, 20, 0, 10)
    said = margin(ACCURACY, goal, accuracy(found), accuracy(source))
    assert said.value == pytest.approx(expected)
    assert said.low < said.value < said.high


def test_models_that_agree_on_every_row_are_not_called_sure_by_a_handful_of_rows() -> None:
    def low(n: int) -> float:
        same = np.ones(n)
        return margin(ACCURACY, Goal(type="percent-max-degradation", value=2), accuracy(same), accuracy(same)).low

    assert low(10) < 0 < low(400)


def test_pairs_tell_more_than_two_figures_alone() -> None:
    """83 and 85 % of 200: two intervals of their own overlap widely, the pairs say that no more than 6 % are lost."""
    found, source = of_cells(166, 4, 0, 30)
    assert accuracy(found).figures["low"] < 0.78 < 0.85
    assert accuracy_difference(found, source).low > -0.06


@pytest.mark.parametrize(("loses", "n"), [(0.10, 96), (0.12, 200)])
def test_a_model_at_or_beyond_its_bound_is_seldom_called_sure(loses: float, n: int) -> None:
    """Of models that truly lose all that is allowed, or more, few may pass: 2.5 % at the bound, by the interval."""
    drawn = np.random.default_rng(0)
    sure = 0
    for _ in range(2000):
        source = (drawn.random(n) < 0.98).astype(float)
        found = source * (drawn.random(n) >= loses)
        sure += margin(ACCURACY, TEN_PERCENT, accuracy(found), accuracy(source)).low >= 0
    assert sure / 2000 < 0.045


def test_a_model_that_loses_little_is_called_sure_mostly_and_then_holds_on_other_rows() -> None:
    drawn = np.random.default_rng(1)
    sure = held = 0
    for _ in range(1000):
        source = (drawn.random(400) < 0.98).astype(float)
        found = source * (drawn.random(400) >= 0.03)
        if margin(ACCURACY, TEN_PERCENT, accuracy(found[:200]), accuracy(source[:200])).low >= 0:
            sure += 1
            held += found[200:].mean() >= 0.9 * source[200:].mean()
    assert sure > 900
    assert held == sure


def losses(nats: np.ndarray) -> Measured:
    return perplexity.measure([Score(float(item), 4) for item in nats])


def test_a_perplexitys_margin_draws_the_same_rows_for_both() -> None:
    """Texts differ much among each other, and each is 2 % worse after: the margin is narrow all the same."""
    drawn = np.random.default_rng(0)
    source = drawn.gamma(2.0, 2.0, 100)
    found = source + 4 * math.log(1.02)
    said = margin(PERPLEXITY, TEN_PERCENT, losses(found), losses(source))
    value = losses(source).value
    assert said.value == pytest.approx(0.08 * value)
    assert 0 < said.low < said.value < said.high
    assert losses(found).figures["high"] > 1.1 * value, "by itself its interval reaches beyond the bound"


def test_an_infinite_perplexity_misses_by_infinitely_much() -> None:
    found = losses(np.array([1.0, math.inf]))
    assert margin(PERPLEXITY, TEN_PERCENT, found, losses(np.ones(2))).low == -math.inf
