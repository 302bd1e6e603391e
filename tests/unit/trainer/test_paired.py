"""Two models on the same rows: margins, and whether their intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finetune_api.evaluators import Goal, Metric
from finetune_trainer import int4_choice
from finetune_trainer.evaluation import answers, perplexity
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.paired import accuracy_difference, margin
from finetune_trainer.evaluation.perplexity import Score

ACCURACY = Metric.model_validate({"name": "m", "type": "accuracy"})
PERPLEXITY = Metric.model_validate({"name": "m", "type": "perplexity"})
TEN_PERCENT = Goal(type="percent-max-degradation", value=10)
# A candidate's share where six may be tried, and what all may have together.
TAIL, ERROR, TRIES = int4_choice.ERROR / 6, int4_choice.ERROR, 6


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
    said = margin(ACCURACY, goal, accuracy(found), accuracy(source), 0.025)
    assert said.value == pytest.approx(expected)
    assert said.low < said.value < said.high


@pytest.mark.parametrize(("value", "needed"), [(10, 46), (2, 237)])
def test_models_that_agree_on_every_row_need_so_many_rows_to_be_sure(value: float, needed: int) -> None:
    """With n rows without a loss, a loss of p is excluded where (1 - p)^n is below the error."""
    goal = Goal(type="percent-max-degradation", value=value)

    def low(n: int) -> float:
        same = np.ones(n)
        return margin(ACCURACY, goal, accuracy(same), accuracy(same), TAIL).low

    assert (1 - value / 100) ** needed == pytest.approx(TAIL, rel=0.1)
    assert low(round(0.9 * needed)) < 0 < low(round(1.1 * needed))


def test_of_a_share_alone_it_is_clopper_and_pearsons_bound() -> None:
    """17 of 20 at 95 %: 0.6211 to 0.9679."""
    right = np.array([1.0] * 17 + [0.0] * 3)
    said = margin(ACCURACY, Goal(type="threshold", value=0.0), accuracy(right), accuracy(right), 0.025)
    assert (said.low, said.high) == pytest.approx((0.6211, 0.9679), abs=0.01)


def test_pairs_tell_more_than_two_figures_alone() -> None:
    """83 and 85 % of 200: two intervals of their own overlap widely, the pairs say that no more than 6 % are lost."""
    found, source = of_cells(166, 4, 0, 30)
    assert accuracy(found).figures["low"] < 0.78 < 0.85
    assert accuracy_difference(found, source).low > -0.06


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize(
    ("n", "value", "base"), [(48, 10, 0.98), (96, 10, 1.0), (200, 10, 0.98), (250, 2, 0.98), (60, 20, 0.5)]
)
def test_six_that_lose_just_what_is_allowed_seldom_have_one_that_is_called_sure(
    n: int, value: float, base: float
) -> None:
    """Exactly, over all outcomes: of n rows the source has `right` right, of which each try loses `lost`."""
    goal = Goal(type="percent-max-degradation", value=value)

    def sure(right: int, lost: int) -> bool:
        found, source = of_cells(right - lost, lost, 0, n - right)
        return margin(ACCURACY, goal, accuracy(found), accuracy(source), TAIL).low >= 0

    called = alone = 0.0
    for right in range(n + 1):
        likely = binomial(right, n, base)
        if likely < 1e-4:
            continue
        # Who loses more is not sure either.
        lost = next(count for count in range(right + 1) if not sure(right, count))
        one = sum(binomial(count, right, value / 100) for count in range(lost))
        alone += likely * one
        called += likely * (1 - (1 - one) ** TRIES)
    assert alone <= TAIL * 1.05, "drawn bounds are not exact"
    assert called <= ERROR


def test_tries_that_lose_and_gain_rows_in_a_simulation() -> None:
    """600 jobs of six settings that lose a tenth of all right answers in truth, part of it made up for by rows won."""
    drawn = np.random.default_rng(0)
    called = 0
    for _ in range(600):
        source = (drawn.random(150) < 0.9).astype(float)
        for _ in range(TRIES):
            keeps, gains = drawn.random(150) >= 0.105, drawn.random(150) < 0.045
            found = np.where(source == 1, keeps, gains).astype(float)
            # 0.9 * 0.895 + 0.1 * 0.045 = 0.81 = 0.9 * 0.9: at the bound.
            if (
                found.sum() >= 0.9 * source.sum() + 5
                and margin(ACCURACY, TEN_PERCENT, accuracy(found), accuracy(source), TAIL).low >= 0
            ):
                called += 1
                break
    assert called / 600 <= ERROR


def test_a_model_that_loses_little_is_called_sure_mostly_and_then_holds_on_other_rows() -> None:
    drawn = np.random.default_rng(1)
    sure = held = 0
    for _ in range(200):
        source = (drawn.random(400) < 0.98).astype(float)
        found = source * (drawn.random(400) >= 0.03)
        if margin(ACCURACY, TEN_PERCENT, accuracy(found[:200]), accuracy(source[:200]), TAIL).low >= 0:
            sure += 1
            held += found[200:].mean() >= 0.9 * source[200:].mean()
    assert sure > 140
    assert held == sure


@pytest.mark.slow
@pytest.mark.parametrize("skew", [-1, 1])
def test_six_perplexities_at_their_bound_seldom_have_one_that_is_called_sure(skew: int) -> None:
    """150 jobs; a few texts lose much and most nothing, or the other way round. Such bounds are about right only."""
    drawn = np.random.default_rng(2)
    called = 0
    for _ in range(150):
        tokens = drawn.integers(2, 12, 60).astype(float)
        source = drawn.gamma(2.0, 2.0, 60) * tokens / 4
        for _ in range(TRIES):
            found = source + tokens * math.log(1.1) + skew * (drawn.exponential(1, 60) - 1) / 2
            own, other = (
                Measured("perplexity", math.exp(nats.sum() / tokens.sum()), {}, rows=np.stack([nats, tokens], 1))
                for nats in (found, source)
            )
            # What misses by its figure is not sure; no bound need be drawn.
            if own.value <= 1.1 * other.value and margin(PERPLEXITY, TEN_PERCENT, own, other, TAIL).low >= 0:
                called += 1
                break
    assert called / 150 <= 2 * ERROR


def losses(nats: np.ndarray) -> Measured:
    return perplexity.measure([Score(float(item), 4) for item in nats])


def test_a_perplexitys_margin_draws_the_same_rows_for_both() -> None:
    """Texts differ much among each other, and each is 2 % worse after: the margin is narrow all the same."""
    drawn = np.random.default_rng(0)
    source = drawn.gamma(2.0, 2.0, 100)
    found = source + 4 * math.log(1.02)
    said = margin(PERPLEXITY, TEN_PERCENT, losses(found), losses(source), TAIL)
    value = losses(source).value
    assert said.value == pytest.approx(0.08 * value)
    assert 0 < said.low < said.value < said.high
    assert losses(found).figures["high"] > 1.1 * value, "by itself its interval reaches beyond the bound"


def test_an_infinite_perplexity_misses_by_infinitely_much() -> None:
    found = losses(np.array([1.0, math.inf]))
    assert margin(PERPLEXITY, TEN_PERCENT, found, losses(np.ones(2)), TAIL).low == -math.inf
