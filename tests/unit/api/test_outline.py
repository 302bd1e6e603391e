"""A spec's stages: what each takes in, gives, and whether it wants its system's GPU."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import rules
from finetune_api.outline import StageOutline, outline

from .specs import BUILDER, LORA, MERGE, QLORA, Spec, changed, job_spec, passes_only


def stages(spec: Spec) -> tuple[StageOutline, ...]:
    parsed, found = rules.check(spec)
    assert parsed is not None
    assert not found
    return outline(parsed)


def shape(spec: Spec) -> list[tuple[str, dict[Any, str], bool, tuple[str, ...], str | None]]:
    return [(stage.name, dict(stage.inputs), stage.base, stage.data, stage.output) for stage in stages(spec)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (passes_only(LORA), [("lora", {}, True, ("train",), "adapter")]),
        # Nothing is trained: the ONNX model is checked on whatever texts the job names.
        (passes_only(BUILDER), [("onnx", {}, True, ("train", "held-out"), "onnx")]),
        (
            passes_only(QLORA, MERGE),
            [
                ("qlora", {}, True, ("train",), "adapter"),
                ("merge", {"adapter": "qlora"}, True, (), "model"),
            ],
        ),
        (
            passes_only(LORA, MERGE, BUILDER),
            [
                ("lora", {}, True, ("train",), "adapter"),
                ("merge", {"adapter": "lora"}, True, (), "model"),
                ("onnx", {"model": "merge"}, False, ("train",), "onnx"),
            ],
        ),
    ],
)
def test_any_subset_of_passes_that_makes_sense(spec: Spec, expected: list[Any]) -> None:
    assert shape(spec) == expected


def test_the_evaluation_split_is_read_too() -> None:
    spec = changed(passes_only(LORA), "passes[0].config.evalDataConfig", "held-out")
    assert stages(spec)[0].data == ("train", "held-out")


def test_the_engines_evaluator_measures_the_input_first_and_the_last_model() -> None:
    assert shape(job_spec())[0] == ("evaluate-input", {}, True, ("held-out",), None)
    assert shape(job_spec())[-1] == ("evaluate-onnx", {"onnx": "onnx"}, False, ("held-out",), None)
    assert [stage.name for stage in stages(changed(job_spec(), "engine.evaluateInputModel", False))] == [
        "lora",
        "merge",
        "onnx",
        "evaluate-onnx",
    ]


def test_a_passs_own_evaluator_measures_it_right_after_it() -> None:
    spec = changed(changed(job_spec(), "passes[0].evaluator", "tones"), "passes[1].evaluator", "tones")
    assert [stage.name for stage in stages(spec)] == [
        "evaluate-input",
        "lora",
        "evaluate-lora",
        "merge",
        "evaluate-merge",
        "onnx",
        "evaluate-onnx",
    ]
    by_name = {stage.name: stage for stage in stages(spec)}
    assert (by_name["evaluate-lora"].inputs, by_name["evaluate-lora"].base) == ({"adapter": "lora"}, True)
    assert (by_name["evaluate-merge"].inputs, by_name["evaluate-merge"].base) == ({"model": "merge"}, False)


def test_a_passs_own_evaluator_goes_before_the_engines() -> None:
    other = {"name": "other", "metrics": [{"name": "m", "type": "accuracy", "dataConfig": "train"}]}
    spec = job_spec(evaluators=[*job_spec()["evaluators"], other])
    spec = changed(spec, "passes[2].evaluator", "other")
    assert [stage.config.name for stage in stages(spec) if stage.type == "Evaluate"] == ["tones", "other"]  # type: ignore[attr-defined]


def test_hosts() -> None:
    spec = job_spec(systems=[{"name": name} for name in ("cpu", "gpu", "eval")])
    spec = changed(spec, "engine", {"host": "cpu", "target": "eval", "evaluator": "tones"})
    spec = changed(spec, "passes[0].host", "gpu")
    assert {stage.name: stage.system for stage in stages(spec)} == {
        "evaluate-input": "eval",
        "lora": "gpu",
        "merge": "cpu",
        "onnx": "cpu",
        "evaluate-onnx": "eval",
    }
    without_target = changed(spec, "engine.target", None)
    assert stages(without_target)[0].system == "cpu"


def test_only_stages_that_gain_from_a_gpu_ask_for_one() -> None:
    assert {stage.type: stage.computes_on_gpu for stage in stages(job_spec())} == {
        "Evaluate": True,
        "LoRA": True,
        "MergeAdapterWeights": False,
        "ModelBuilder": False,
    }
    cuda = changed(passes_only(BUILDER), "passes[0].config.executionProvider", "cuda")
    assert stages(cuda)[0].computes_on_gpu


def test_a_builder_of_an_unmerged_adapter_reads_base_and_adapter() -> None:
    unmerged = {**BUILDER, "config": {"precision": "int4", "adapter": "unmerged"}}
    assert shape(passes_only(LORA, unmerged))[-1] == ("onnx", {"adapter": "lora"}, True, ("train",), "onnx")


ADAPTED = {"modelPath": "s3://models/phi3", "adapterPath": "s3://models/adapter"}
UNMERGED = {**BUILDER, "config": {"precision": "int4", "adapter": "unmerged"}}


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ((LORA, MERGE, BUILDER), {"lora": True, "merge": False, "onnx": False}),
        ((MERGE, BUILDER), {"merge": True, "onnx": False}),
        ((UNMERGED,), {"onnx": True}),
        ((QLORA, UNMERGED), {"qlora": True, "onnx": False}),
    ],
)
def test_the_input_models_adapter_is_read_by_the_pass_that_takes_it_up(
    passes: tuple[Spec, ...], expected: dict[str, bool]
) -> None:
    spec = {**passes_only(*passes), "inputModel": ADAPTED}
    assert {stage.name: stage.base_adapter for stage in stages(spec)} == expected
    assert all(stage.base for stage in stages(spec) if stage.base_adapter)


def test_the_input_model_is_measured_with_its_adapter() -> None:
    found = {stage.name: stage.base_adapter for stage in stages(job_spec(inputModel=ADAPTED))}
    assert found == {"evaluate-input": True, "lora": True, "merge": False, "onnx": False, "evaluate-onnx": False}


@pytest.mark.parametrize(
    ("engine", "config", "provider"),
    [
        ({}, {}, "cpu"),
        ({"executionProviders": ["cuda"]}, {}, "cuda"),
        ({"executionProviders": ["cuda"]}, {"executionProvider": "cpu"}, "cpu"),
        ({"executionProviders": ["cuda"]}, {"precision": "bf16"}, "cuda"),
    ],
)
def test_a_builder_that_names_no_provider_builds_for_the_engines(engine: Spec, config: Spec, provider: str) -> None:
    spec = {**passes_only({**BUILDER, "config": {"precision": "int4", **config}}), "engine": engine}
    [stage] = stages(spec)
    assert stage.config.wire()["executionProvider"] == provider
    assert stage.computes_on_gpu == (provider == "cuda")
    parsed, _ = rules.check(spec)
    assert parsed is not None
    assert rules.check(parsed.wire())[0] == parsed, "a spec whose defaults are written out is the same spec"
