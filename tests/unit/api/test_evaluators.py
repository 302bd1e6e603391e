"""Evaluators: fields of their type, goals that have something to be judged by, and the stages that follow."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import keys, rules
from finetune_api.evaluators import METRIC_FIELDS, Metric
from finetune_api.outline import StageOutline, outline

from .specs import BUILDER, Spec, changed, job_spec, pins

ACCURACY = {"name": "right", "type": "accuracy", "dataConfig": "held-out"}
DEGRADATION = {"type": "percent-max-degradation", "value": 10}


def measuring(*metrics: dict[str, Any], **fields: Any) -> Spec:
    return job_spec(evaluators=[{"name": "tones", "metrics": list(metrics), **fields}])


def stages(spec: Spec) -> dict[str, StageOutline]:
    parsed, found = rules.check(spec)
    assert parsed is not None
    assert not found
    return {stage.name: stage for stage in outline(parsed)}


def problems(spec: Spec) -> list[tuple[str, str, str]]:
    return [(item.path, item.value, item.message) for item in rules.check(spec)[1]]


METRIC = "spec.evaluators[0].metrics[0]"
AUTO = {"precision": "int4", "int4AlgoConfig": "auto"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            measuring({"name": "m", "type": "accuracy"}),
            (f"{METRIC}.dataConfig", "", "accuracy is about rows, and none are named"),
        ),
        (measuring(ACCURACY | {"runs": 3}), (f"{METRIC}.runs", "3", "only for type latency, throughput")),
        (
            measuring({"name": "m", "type": "size_on_disk", "stop": ["."]}),
            (f"{METRIC}.stop", "['.']", "only for type accuracy"),
        ),
        (
            measuring({"name": "m", "type": "throughput", "statistic": "p90"}),
            (f"{METRIC}.statistic", "p90", "only for type latency"),
        ),
        (
            changed(measuring(ACCURACY | {"goal": DEGRADATION}), "engine.evaluateInputModel", False),
            ("spec.engine.evaluateInputModel", "false", "a goal of evaluator tones compares with the input model"),
        ),
        (
            changed(measuring(ACCURACY), "passes[2].config", AUTO),
            ("spec.passes[2].config.int4AlgoConfig", "auto", "evaluator tones says nothing of how much may be lost"),
        ),
        (
            changed(changed(measuring(ACCURACY), "passes[2].config", AUTO), "engine", {}),
            ("spec.passes[2].config.int4AlgoConfig", "auto", "the pass has no evaluator to choose by"),
        ),
        (
            changed(measuring(ACCURACY | {"goal": DEGRADATION}), "passes[2].config", AUTO | {"int4BlockSize": 32}),
            ("spec.passes[2].config.int4BlockSize", "32", "int4AlgoConfig auto chooses it"),
        ),
        (
            changed(job_spec(), "passes[2].config.maxTries", 2),
            ("spec.passes[2].config.maxTries", "2", "only with int4AlgoConfig auto"),
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(spec: Spec, expected: tuple[str, str, str]) -> None:
    assert problems(spec) == [expected]


def test_every_field_of_a_metric_belongs_to_a_type() -> None:
    assert set(Metric.model_fields) == {"name", "type", "goal"}.union(*METRIC_FIELDS.values())


def test_a_threshold_needs_no_input_model() -> None:
    spec = measuring(ACCURACY | {"goal": {"type": "threshold", "value": 0.9}})
    assert stages(spec)["evaluate-onnx"].inputs == {"onnx": "onnx"}
    assert "evaluate-input" not in stages(changed(spec, "engine.evaluateInputModel", False))


def test_a_goal_that_compares_is_judged_beside_the_input_models_evaluation() -> None:
    found = stages(measuring(ACCURACY | {"goal": DEGRADATION}))
    assert found["evaluate-onnx"].inputs == {"onnx": "onnx", "reference": "evaluate-input"}
    assert found["evaluate-input"].inputs == {}


def test_a_passs_own_evaluator_with_such_a_goal_measures_the_input_model_too() -> None:
    other = {"name": "other", "metrics": [ACCURACY | {"goal": DEGRADATION}]}
    spec = job_spec(evaluators=[*job_spec()["evaluators"], other])
    found = stages(changed(spec, "passes[1].evaluator", "other"))
    assert list(found) == [
        "evaluate-input", "evaluate-input-other", "lora", "merge", "evaluate-merge", "onnx", "evaluate-onnx",
    ]  # fmt: skip
    assert found["evaluate-merge"].inputs == {"model": "merge", "reference": "evaluate-input-other"}


def test_later_jobs_reuse_the_input_models_evaluation_whatever_their_goals() -> None:
    def key(spec: Spec) -> str:
        parsed, _ = rules.check(spec)
        assert parsed is not None
        return keys.stage_keys("team", parsed, pins("train", "held-out"))["evaluate-input"]

    plain = measuring(ACCURACY)
    assert key(measuring(ACCURACY | {"goal": DEGRADATION}, onMissedGoal="warn")) == key(plain)
    assert key(changed(plain, "passes[0].config.r", 8)) == key(plain)
    assert key(measuring(ACCURACY | {"maxNewTokens": 4})) != key(plain)


def test_auto_chooses_by_the_evaluator_and_keeps_rows_back_for_it() -> None:
    spec = changed(measuring(ACCURACY | {"goal": DEGRADATION}), "passes[2].config", AUTO)
    found = stages(spec)
    chooser = found["onnx"].evaluator
    assert chooser is not None
    assert chooser.validation_size == 0.5
    assert found["onnx"].data == ("train", "held-out")
    assert found["evaluate-input"].config.validation_size == found["evaluate-onnx"].config.validation_size == 0.5
    assert stages(changed(spec, "evaluators[0].validationSize", 0.2))["onnx"].evaluator.validation_size == 0.2
    assert stages(measuring(ACCURACY | {"goal": DEGRADATION}))["onnx"].evaluator is None


def test_what_auto_chooses_by_is_in_its_key() -> None:
    def key(value: float) -> str:
        goal = {"type": "percent-max-degradation", "value": value}
        spec = changed(measuring(ACCURACY | {"goal": goal}), "passes[2]", BUILDER | {"config": AUTO})
        parsed, found = rules.check(spec)
        assert parsed is not None
        assert not found
        return keys.stage_keys("team", parsed, pins("train", "held-out"))["onnx"]

    assert key(10) != key(20)
