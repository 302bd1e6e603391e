"""Evaluate: one model, measured by one evaluator, and its figures held to their goals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from finetune_api.evaluators import Evaluator
from finetune_api.stage import ExitCode, Reason
from finetune_trainer.context import PassOutput, StageContext
from finetune_trainer.errors import StageFailure
from finetune_trainer.evaluation.figures import Measured, figures
from finetune_trainer.evaluation.goals import Judgement, judge, missed
from finetune_trainer.evaluation.measuring import measure
from finetune_trainer.evaluation.model import load_subject
from finetune_trainer.evaluation.questions import RowReader

SUMMARY = "summary.json"


def run(context: StageContext) -> PassOutput:
    """Measures the evaluator's metrics; what was answered goes to `<metric>.jsonl`, all figures to `summary.json`.

    Raises StageFailure (GoalNotMet) with the figures where a goal is missed and the evaluator does not only warn.
    """
    evaluator = Evaluator.model_validate(context.document.config)
    context.report.progress(activity="loading model")
    subject = load_subject(context)
    reader = RowReader(context, evaluator, subject.tokenizer)
    found: dict[str, Measured] = {}
    for metric in evaluator.metrics:
        found[metric.name] = measure(subject, metric, reader, context, output=context.output)
        context.report.log(f"{metric.name}: {found[metric.name].words}")
    judgements = judge(evaluator, found, reference_values(context))
    for judgement in judgements.values():
        context.report.log(f"goal {'met' if judgement.met else 'MISSED'}: {judgement}")
    require_goals(evaluator, judgements)
    content = summary(evaluator, subject.role, found, judgements)
    (context.output / SUMMARY).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return PassOutput(figures(found, {name: item.met for name, item in judgements.items()}))


def reference_values(context: StageContext) -> dict[str, float]:
    """By metric, what the stage's reference, the input model, reached; empty where it has none."""
    folder = context.inputs.get("reference")
    if folder is None:
        return {}
    content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return {name: _number(item["value"]) for name, item in content["metrics"].items()}


def require_goals(evaluator: Evaluator, judgements: Mapping[str, Judgement]) -> None:
    """Raises StageFailure (GoalNotMet) where a goal is missed and missing it fails the job."""
    found = missed(judgements)
    if found and evaluator.on_missed_goal == "fail":
        problems = [item.problem(evaluator.name) for item in found]
        message = "; ".join(str(item) for item in found)
        raise StageFailure(Reason.GOAL_NOT_MET, message, exit_code=ExitCode.RESULT_REFUSED, problems=problems)


def summary(
    evaluator: Evaluator, role: str, found: Mapping[str, Measured], judgements: Mapping[str, Judgement]
) -> dict[str, Any]:
    """All figures of an evaluation as JSON has them: what is no number or infinite is null."""
    return {
        "evaluator": evaluator.name,
        "model": role,
        "metrics": {
            name: {
                "type": item.type,
                "value": _finite(item.value),
                **{figure: _finite(value) for figure, value in item.figures.items()},
                **item.detail,
                **({"goal": _goal(judgements[name])} if name in judgements else {}),
            }
            for name, item in found.items()
        },
    }


def _goal(judgement: Judgement) -> dict[str, Any]:
    return {name: _finite(value) if isinstance(value, float) else value for name, value in judgement.content().items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    """A summary's null was infinite: a perplexity beyond floats."""
    return math.inf if value is None else value
