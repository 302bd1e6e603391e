"""Goals: what a metric's figure must reach, alone or beside a reference model's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_api.evaluators import Evaluator, Goal, Metric
from finetune_api.problems import Problem, problem
from finetune_trainer.evaluation.figures import Measured


@dataclass(frozen=True)
class Judgement:
    """A metric's value beside the least or most that its goal allows. `reference` is None for thresholds."""

    metric: Metric
    goal: Goal
    value: float
    bound: float
    reference: float | None

    @property
    def met(self) -> bool:
        """Whether the value reaches the bound, in the metric's direction.

        60 of 200 are just 20 points more than 20 of 200, which floats do not know: 0.1 + 0.2 is more than 0.3.
        """
        if math.isclose(self.value, self.bound, rel_tol=1e-12):
            return True
        return self.value >= self.bound if self.metric.higher_is_better else self.value <= self.bound

    def __str__(self) -> str:
        side = "at least" if self.metric.higher_is_better else "at most"
        beside = "" if self.reference is None else f", {self.reference:.4g} before"
        return (
            f"{self.metric.name} is {self.value:.4g}, wanted is {side} {self.bound:.4g} "
            f"({self.goal.type} {self.goal.value:g}{beside})"
        )

    def problem(self, evaluator: str) -> Problem:
        """The judgement as a problem of the spec."""
        return problem(
            f"spec.evaluators[name={evaluator}].metrics[name={self.metric.name}].goal",
            f"{self.goal.type} {self.goal.value:g}",
            str(self),
            "Improve the model, change the goal, or set the evaluator's onMissedGoal to warn.",
        )

    def content(self) -> dict[str, object]:
        """As the evaluation's summary holds it."""
        return {**self.goal.wire(), "bound": self.bound, "reference": self.reference, "met": self.met}


def bound_of(goal: Goal, higher_is_better: bool, reference: float | None) -> float:
    """The value at which `goal` is just met. Raises ValueError where it compares and there is no reference.

    Of perplexity 10, percent-max-degradation 10 allows 11; of accuracy 0.9 it asks for 0.81.
    """
    if not goal.compares:
        return goal.value
    if reference is None:
        raise ValueError(f"a goal of type {goal.type} without a reference")
    room = abs(reference) * goal.value / 100 if goal.type.startswith("percent-") else goal.value
    up = higher_is_better == goal.type.endswith("min-improvement")
    return reference + room if up else reference - room


def judge(evaluator: Evaluator, found: Mapping[str, Measured], reference: Mapping[str, float]) -> dict[str, Judgement]:
    """A judgement for every measured metric that has a goal. `reference` has the other model's values."""
    return {
        metric.name: Judgement(
            metric,
            metric.goal,
            found[metric.name].value,
            bound_of(metric.goal, metric.higher_is_better, reference.get(metric.name)),
            reference.get(metric.name) if metric.goal.compares else None,
        )
        for metric in evaluator.metrics
        if metric.goal and metric.name in found
    }


def missed(judgements: Mapping[str, Judgement]) -> Sequence[Judgement]:
    """Those that are not met; a value that is no number meets nothing."""
    return [item for item in judgements.values() if not item.met]
