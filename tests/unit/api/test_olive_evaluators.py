"""Olive's evaluators become the job's: metrics of types that it has, with their goals."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from finetune_api import rules
from finetune_api.olive import Imported, NoteKind, import_config

from .test_olive import NEW, OPTIONS, at, lost, notes

# As Olive's own examples write them: several figures of one metric, each with a goal.
LATENCY: dict[str, Any] = {
    "name": "speed",
    "type": "latency",
    "sub_types": [
        {
            "name": "avg",
            "priority": 1,
            "higher_is_better": False,
            "goal": {"type": "percent-min-improvement", "value": 10},
            "metric_config": {"warmup_num": 5, "repeat_test_num": 30, "sleep_num": 0},
        },
        {"name": "p99"},
        {"name": "p75"},
    ],
    "user_config": {"batch_size": 2, "io_bind": True},
}
ACCURACY: dict[str, Any] = {
    "name": "tones",
    "type": "accuracy",
    "backend": "huggingface_metrics",
    "data_config": "train",
    "sub_types": [
        {"name": "exact_match", "higher_is_better": True, "goal": {"type": "max-degradation", "value": 0.02}},
        {"name": "perplexity"},
        {"name": "f1_score"},
    ],
}


def with_metrics(*metrics: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = copy.deepcopy(NEW)
    return {**config, "evaluators": {"common": {"metrics": list(metrics)}}, "evaluator": "common", **more}


def imported(*metrics: dict[str, Any], **more: Any) -> Imported:
    config = with_metrics(*metrics, **more)
    result = import_config(config, OPTIONS)
    assert lost(config, result) == []
    for target in result.landed.values():
        at(result.job(), target)
    return result


def test_metrics_goals_and_settings_land() -> None:
    result = imported(LATENCY, ACCURACY)
    assert rules.check(result.spec)[1] == []
    [evaluator] = result.spec["evaluators"]
    assert evaluator == {
        "name": "common",
        "metrics": [
            {
                "name": "speed",
                "type": "latency",
                "statistic": "mean",
                "goal": {"type": "percent-min-improvement", "value": 10},
                "warmupRuns": 5,
                "runs": 30,
                "batchSize": 2,
            },
            {"name": "speed-p99", "type": "latency", "statistic": "p99", "batchSize": 2},
            {
                "name": "tones",
                "type": "accuracy",
                "dataConfig": "train",
                "goal": {"type": "max-degradation", "value": 0.02},
            },
            {"name": "tones-perplexity", "type": "perplexity", "dataConfig": "train"},
        ],
    }
    assert result.spec["engine"]["evaluator"] == "common"
    decide = notes(result, NoteKind.DECIDE)
    assert "does not measure latency p75" in decide["evaluators.common.metrics[0].sub_types[2]"]
    assert "does not measure accuracy f1_score" in decide["evaluators.common.metrics[1].sub_types[2]"]
    assert "Olive compares classes" in notes(result, NoteKind.CHANGED)["evaluators.common.metrics[1].type"]


@pytest.mark.parametrize(
    ("metric", "path", "words"),
    [
        ({**ACCURACY, "data_config": None}, "metrics[0].sub_types[0]", "name a data config"),
        (
            {**ACCURACY, "data_config": "elsewhere"},
            "metrics[0].data_config",
            "'elsewhere' is no item of spec.dataConfigs",
        ),
        ({**LATENCY, "type": "custom"}, "metrics[0].type", "nothing of this metric"),
        (
            {**LATENCY, "sub_types": [{"name": "avg", "goal": {"type": "threshold", "value": -1}}]},
            "metrics[0].sub_types[0].goal",
            "is no goal",
        ),
    ],
)
def test_what_cannot_be_measured_is_a_decision(metric: dict[str, Any], path: str, words: str) -> None:
    assert words in notes(imported(metric), NoteKind.DECIDE)[f"evaluators.common.{path}"]


def test_a_direction_that_is_not_ours_contradicts() -> None:
    sub = {"name": "avg", "higher_is_better": True, "goal": {"type": "threshold", "value": 5}}
    said = notes(imported({**LATENCY, "sub_types": [sub]}), NoteKind.CONTRADICTS)
    assert "lower is better" in said["evaluators.common.metrics[0].sub_types[0].higher_is_better"]


def test_an_evaluator_of_which_nothing_is_left_is_left_out_with_what_names_it() -> None:
    result = imported({**LATENCY, "type": "custom"})
    assert "evaluators" not in result.spec
    assert "evaluator" not in result.spec["engine"]
    assert "write spec.evaluators yourself" in notes(result, NoteKind.DECIDE)["evaluators.common"]


def test_size_throughput_and_an_evaluator_of_olives_own() -> None:
    size = {"name": "size", "type": "size_on_disk", "sub_types": [{"name": "bytes"}]}
    speed = {"name": "rate", "type": "throughput", "sub_types": [{"name": "avg"}]}
    harness = {"type": "LMEvaluator", "tasks": ["arc_easy"], "limit": 10}
    result = imported(size, speed, evaluators=[
        {"name": "common", "metrics": [size, speed]}, {"name": "harness", **harness}
    ])  # fmt: skip
    assert [metric["type"] for metric in result.spec["evaluators"][0]["metrics"]] == ["size_on_disk", "throughput"]
    assert len(result.spec["evaluators"]) == 1
    assert "runs tasks" in notes(result, NoteKind.DECIDE)["evaluators[1].type"]


def test_a_passs_own_evaluator_and_one_that_is_written_out_there() -> None:
    config = with_metrics(LATENCY)
    config["passes"]["tune"]["evaluator"] = "common"
    config["evaluator"] = {"metrics": [{**LATENCY, "name": "other"}]}
    result = import_config(config, OPTIONS)
    assert lost(config, result) == []
    assert result.spec["passes"][0]["evaluator"] == "common"
    assert result.spec["engine"]["evaluator"] == "evaluator"
    assert rules.check(result.spec)[1] == []


def test_data_that_is_written_out_in_a_metric_or_a_pass() -> None:
    """As Olive up to 0.6 allowed."""
    rows = {"name": "rows", "load_dataset_config": {"params": {"data_name": "json", "data_files": "rows.jsonl"}},
            "pre_process_data_config": {"params": {"text_cols": ["a", "b"]}}}  # fmt: skip
    config = with_metrics({**ACCURACY, "data_config": rows})
    config["passes"]["tune"]["train_data_config"] = {key: value for key, value in rows.items() if key != "name"}
    result = import_config(config, OPTIONS)
    assert lost(config, result) == []
    assert [item["name"] for item in result.spec["dataConfigs"]] == ["train", "rows", "trainDataConfig"]
    assert result.spec["passes"][0]["config"]["trainDataConfig"] == "trainDataConfig"
    assert result.spec["evaluators"][0]["metrics"][0]["dataConfig"] == "rows"
    assert rules.check(result.spec)[1] == []


def test_no_more_metrics_than_an_evaluator_may_have() -> None:
    many = [{**LATENCY, "name": f"m{index}"} for index in range(6)]
    result = imported(*many)
    assert len(result.spec["evaluators"][0]["metrics"]) == 8
    assert rules.check(result.spec)[1] == []
