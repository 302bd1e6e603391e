"""What a pod and the operator say to each other: closed, bounded, and small enough for a termination message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api import rules
from finetune_api.outline import outline
from finetune_api.stage import (
    MAX_ARCHITECTURE,
    MAX_RESULT_BYTES,
    Artifact,
    DataPin,
    ExitCode,
    ModelPin,
    Pins,
    Prepared,
    Progress,
    StageDocument,
    StageResult,
)

from .specs import BUILDER, LORA, MERGE, job_spec

KUBELET_KEEPS = 4096
LARGEST = 2**53


def largest_stages() -> list[str]:
    """The stages of the largest job that the rules let pass, with names as long as may be."""
    names = [f"{index:0>32}" for index in range(16)]
    metrics = [{"name": f"m{index}", "type": "accuracy", "dataConfig": names[index]} for index in range(8)]
    spec = job_spec(
        dataConfigs=[{**job_spec()["dataConfigs"][0], "name": name} for name in names],
        evaluators=[{"name": "e", "metrics": metrics}],
        engine={"evaluator": "e"},
        passes=[
            {**item, "name": f"{place:0>32}", "evaluator": "e", **config}
            for place, item, config in (
                ("a", LORA, {"config": {"trainDataConfig": names[0]}}),
                ("b", MERGE, {}),
                ("c", BUILDER, {}),
            )
        ],
    )
    parsed, found = rules.check(spec)
    assert parsed is not None
    assert not found
    return [stage.name for stage in outline(parsed)]


def test_the_largest_result_of_prepare_fits_a_termination_message() -> None:
    stages = largest_stages()
    assert len(stages) == 7
    data = {f"{index:0>32}": DataPin(digest="b" * 64, size=LARGEST, rows=LARGEST) for index in range(16)}
    model = ModelPin(
        digest="a" * 64, revision="r" * 128, architecture="A" * MAX_ARCHITECTURE, size=LARGEST, adapter="f" * 64
    )
    result = StageResult(
        key="d" * 64,
        ok=True,
        prepared=Prepared(pins=Pins(model=model, data=data), keys="e" * 64, done=dict.fromkeys(stages, "c" * 64)),
    )
    print(f"largest result of prepare: {len(result.model_dump_json().encode())} bytes")
    assert len(result.model_dump_json().encode()) <= MAX_RESULT_BYTES <= KUBELET_KEEPS


def test_the_largest_results_of_other_stages_fit() -> None:
    artifacts = [
        Artifact(name=name, stage="s" * 41, key="a" * 64, digest="b" * 64, attempt="c" * 63, bytes=LARGEST)
        for name in ("adapter", "model", "onnx")
    ]
    published = StageResult(key="d" * 64, ok=True, published=artifacts)
    metrics = {f"{index:m>64}": -1.2345678901234567e-100 for index in range(24)}
    measured = StageResult(key="d" * 64, ok=True, digest="a" * 64, attempt="c" * 63, bytes=LARGEST, metrics=metrics)
    assert all(len(result.model_dump_json().encode()) <= MAX_RESULT_BYTES for result in (published, measured))


SMALLEST = {"key": "a" * 64, "ok": True}


@pytest.mark.parametrize(
    "wrong",
    [
        {"bytes": 2**53 + 1},
        {"bytes": -1},
        {"digest": "A" * 64},
        {"digest": "a" * 64 + "\n"},
        {"attempt": "a/../b"},
        {"attempt": "-a"},
        {"metrics": {"loss": float("nan")}},
        {"metrics": {"<b>": 1.0}},
        {"metrics": {f"m{index}": 1.0 for index in range(25)}},
        {"reason": "MyOwnReason"},
        {"message": "x" * 513},
        {"uri": "s3://elsewhere"},
        {"prepared": {"pins": {"model": {"digest": "a" * 64, "architecture": "<script>"}}, "keys": "a" * 64}},
        {"prepared": {"pins": {"model": {"digest": "a" * 64, "revision": "\x1b[2J"}}, "keys": "a" * 64}},
        {
            "prepared": {
                "pins": {"model": {"digest": "a" * 64}, "data": {"a\nb": {"digest": "a" * 64}}},
                "keys": "a" * 64,
            }
        },
    ],
)
def test_what_a_pod_must_not_say_is_refused(wrong: dict[str, Any]) -> None:
    assert StageResult.model_validate_json(json.dumps(SMALLEST)).ok
    with pytest.raises(ValidationError):
        StageResult.model_validate_json(json.dumps({**SMALLEST, **wrong}))


@pytest.mark.parametrize(
    "wrong", [{"loss": float("nan")}, {"step": -1}, {"step": 2**60}, {"eta_seconds": float("inf")}, {"kind": "log"}]
)
def test_progress_is_bounded(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Progress.model_validate(wrong)


def test_exit_codes_are_part_of_the_api() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "BAD_INPUT": 64,
        "RESULT_REFUSED": 65,
        "INTERNAL": 70,
        "OUT_OF_MEMORY": 71,
        "HARDWARE": 72,
        "STALLED": 73,
        "INFRASTRUCTURE": 74,
        "TERMINATED": 75,
    }


def test_a_newer_operators_document_is_read_as_far_as_it_is_known() -> None:
    document = {
        "job": {"namespace": "n", "name": "j", "uid": "u", "generation": 1},
        "stage": "lora",
        "type": "LoRA",
        "key": "0" * 64,
        "attempt": "a",
        "storage": {"uri": "s3://bucket/p"},
        "saidByANewerOperator": {"anything": 1},
    }
    assert StageDocument.model_validate(document).stage == "lora"
    with pytest.raises(ValidationError, match="uriOfTheBucket"):
        StageDocument.model_validate({**document, "storage": {"uri": "s3://bucket/p", "uriOfTheBucket": "x"}})
