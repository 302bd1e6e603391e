"""Goals: the bound that each kind sets, in each direction, and who meets it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.evaluators import Evaluator, Goal
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.goals import bound_of, judge, missed
from finetune_trainer.evaluation.perplexity import Score, bootstrap_interval, measure


@pytest.mark.parametrize(
    ("kind", "value", "up", "reference", "bound"),
    [
        ("threshold", 0.8, True, None, 0.8),
        ("threshold", 12.0, False, 3.0, 12.0),
        ("min-improvement", 0.1, True, 0.5, 0.6),
        ("min-improvement", 2.0, False, 10.0, 8.0),
        ("percent-min-improvement", 10.0, True, 0.5, 0.55),
        ("percent-min-improvement", 10.0, False, 20.0, 18.0),
        ("max-degradation", 0.1, True, 0.9, 0.8),
        ("max-degradation", 1.5, False, 10.0, 11.5),
        ("percent-max-degradation", 10.0, True, 0.9, 0.81),
        ("percent-max-degradation", 10.0, False, 10.0, 11.0),
    ],
)
def test_bounds(kind: str, value: float, up: bool, reference: float | None, bound: float) -> None:
    goal = Goal.model_validate({"type": kind, "value": value})
    assert bound_of(goal, up, reference) == pytest.approx(bound)


def test_what_compares_needs_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match="without a reference"):
        bound_of(Goal(type="max-degradation", value=1), True, None)


@pytest.mark.parametrize(
    ("kind", "value", "met"),
    [("accuracy", 0.8, True), ("accuracy", 0.79, False), ("latency", 0.8, True), ("latency", 0.81, False)],
)
def test_a_bound_itself_is_enough(kind: str, value: float, met: bool) -> None:
    metric = {"name": "m", "type": kind, "goal": {"type": "threshold", "value": 0.8}}
    evaluator = Evaluator.model_validate({"name": "e", "metrics": [metric]})
    judgements = judge(evaluator, {"m": Measured(kind, value, {})}, {})
    assert judgements["m"].met is met
    assert [item.metric.name for item in missed(judgements)] == ([] if met else ["m"])


def test_a_bound_that_floats_miss_by_a_hair_is_met() -> None:
    """0.1 + 0.2 is 0.30000000000000004: 60 right of 200 are 20 points more than 20."""
    metric = {"name": "m", "type": "accuracy", "goal": {"type": "min-improvement", "value": 0.2}}
    evaluator = Evaluator.model_validate({"name": "e", "metrics": [metric]})
    found = {"m": Measured("accuracy", 60 / 200, {})}
    assert judge(evaluator, found, {"m": 20 / 200})["m"].met
    assert not judge(evaluator, {"m": Measured("accuracy", 59 / 200, {})}, {"m": 20 / 200})["m"].met


def test_an_infinite_figure_meets_no_goal() -> None:
    metric = {"name": "m", "type": "perplexity", "goal": {"type": "threshold", "value": 1e15}}
    evaluator = Evaluator.model_validate({"name": "e", "metrics": [metric]})
    assert missed(judge(evaluator, {"m": Measured("perplexity", math.inf, {})}, {}))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 9)), min_size=1, max_size=20))
def test_the_bootstrap_interval_holds_the_perplexity_of_equal_texts_and_is_ordered(pairs: list) -> None:
    scores = [Score(nll * tokens, tokens) for nll, tokens in pairs]
    said = measure(scores)
    low, high = said.figures["low"], said.figures["high"]
    assert low <= high
    assert bootstrap_interval(said.rows) == (low, high)
    same = measure([Score(2.0, 1)] * 5)
    assert (same.value, same.figures["low"], same.figures["high"]) == pytest.approx((math.e**2,) * 3)
