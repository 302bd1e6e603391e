"""Errors of shape are said in the field's own words, with the nearest right name."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import rules
from finetune_api.job import JobSpec
from finetune_api.schema_problems import field_path

from .specs import Spec, changed, job_spec


def only_problem(spec: Spec) -> tuple[str, str, str, str]:
    parsed, (found,) = rules.check(spec)
    assert parsed is None
    return found.path, found.value, found.message, found.remedy


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("passes[0].config.lora_r", 8, "Write r."),
        ("passes[0].config.lora_alpha", 8, "Write alpha."),
        ("passes[0].config.lora_dropuot", 0.1, "Did you mean loraDropout?"),
        ("passes[0].config.trainingArgs.evaluation_strategy", "steps", "Write evalStrategy."),
        ("passes[0].config.trainingArgs.num_trian_epochs", 1, "Did you mean numTrainEpochs?"),
        ("dataConfigs[0].preProcessDataConfig.source_max_len", 8, "Write maxSeqLen."),
        ("dataConfigs[0].preProcessDataConfig.corpus_strategy", "join", "Write strategy."),
        ("inputModel.from_pretrained_args", {}, "Write loadKwargs."),
        ("inputModel.model_name", "phi", "Write modelPath."),
        ("inputModel.tokenSecretref", {}, "Did you mean tokenSecretRef?"),
        ("dataConfig", [], "Did you mean dataConfigs?"),
        ("passes[2].config.r", 8, None),
        ("passes[1].config.zzz", 8, "Known here: baseWeights."),
        (
            "engine.zzz",
            8,
            "Known here: cacheDir, evaluateInputModel, evaluator, executionProviders, host, logSeverityLevel, "
            "outputDir, searchStrategy, target.",
        ),
    ],
)
def test_an_unknown_field_gets_the_nearest_right_name(path: str, value: object, remedy: str | None) -> None:
    where, shown, message, said = only_problem(changed(job_spec(), path, value))
    assert (where, message) == (f"spec.{path}", "unknown field")
    assert shown == ({dict: "an object", list: "a list"}.get(type(value)) or str(value))
    if remedy is not None:
        assert said == remedy
    else:
        assert said.startswith("Known here: adapter, executionProvider, int4AccuracyLevel,")


@pytest.mark.parametrize("name", ["lora_r", "lora_alpha", "source_max_len", "from_pretrained_args", "model_name"])
def test_every_olive_spelling_leads_to_a_field_that_is_there(name: str) -> None:
    from finetune_api.schema_problems import OLIVE_SPELLINGS

    assert OLIVE_SPELLINGS[name] in _all_fields(JobSpec)


def _all_fields(model: Any) -> set[str]:
    from finetune_api.crd import crd

    names: set[str] = set()

    def walk(schema: dict[str, Any]) -> None:
        for name, inner in schema.get("properties", {}).items():
            names.add(name)
            walk(inner)
        if "items" in schema:
            walk(schema["items"])

    walk(crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
    return names


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            changed(job_spec(), "storage.uri", None),
            ("spec.storage.uri", "", "required, but not there", "Give it a value."),
        ),
        (
            changed(job_spec(), "passes[2].config.precision", None),
            ("spec.passes[2].config.precision", "", "required, but not there", "Give it a value."),
        ),
        (
            changed(job_spec(), "passes[0].config", None),
            ("spec.passes[0].config", "", "required, but not there", "Give it a value."),
        ),
        (
            changed(job_spec(), "passes[0].type", None),
            ("spec.passes[0].type", "", "required, but not there", "Give the pass its type."),
        ),
        (
            changed(job_spec(), "passes[0].type", "Lora"),
            (
                "spec.passes[0].type",
                "Lora",
                "not a known value",
                "Use 'LoRA', 'QLoRA', 'DoRA', 'MergeAdapterWeights', 'ModelBuilder'.",
            ),
        ),
        (
            changed(job_spec(), "passes[2].config.precision", "int2"),
            (
                "spec.passes[2].config.precision",
                "int2",
                "not a known value",
                "Use 'int4', 'int8', 'bf16', 'fp16' or 'fp32'.",
            ),
        ),
        (
            changed(job_spec(), "passes[0].config.r", 0),
            ("spec.passes[0].config.r", "0", "input should be greater than or equal to 1", ""),
        ),
        (
            changed(job_spec(), "passes[0].config.trainingArgs", "fast"),
            (
                "spec.passes[0].config.trainingArgs",
                "fast",
                "input should be a valid dictionary or instance of TrainingArgs",
                "",
            ),
        ),
        (
            changed(job_spec(), "storage.uri", "bucket/jobs"),
            (
                "spec.storage.uri",
                "bucket/jobs",
                "string should match pattern '^s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/.*)?$'",
                "Where outputs go: `s3://bucket/prefix`.",
            ),
        ),
        (
            changed(job_spec(), "passes[2].config.int4NodesToExclude", ["/a,/b"]),
            (
                "spec.passes[2].config.int4NodesToExclude[0]",
                "/a,/b",
                r"string should match pattern '^[^,\s]+$'",
                "Names of ONNX nodes whose weights stay unquantized, such as /lm_head/MatMul.",
            ),
        ),
        (
            changed(job_spec(), "dataConfigs[0].loadDatasetConfig.dataFiles", []),
            (
                "spec.dataConfigs[0].loadDatasetConfig.dataFiles",
                "a list",
                "list should have at least 1 item after validation, not 0",
                "",
            ),
        ),
    ],
)
def test_a_wrong_value_is_said_with_its_path(spec: Spec, expected: tuple[str, str, str, str]) -> None:
    assert only_problem(spec) == expected


def test_several_errors_of_shape_are_said_together() -> None:
    spec = changed(changed(job_spec(), "passes[0].config.lora_r", 8), "storage.bucket", "x")
    assert {item.path for item in rules.check(spec)[1]} == {"spec.passes[0].config.lora_r", "spec.storage.bucket"}


def test_a_path_keeps_a_field_that_is_called_like_its_type() -> None:
    data = {"passes": [{"type": "LoRA", "LoRA": 1}]}
    assert field_path(("passes", 0, "LoRA", "config", "r"), {"passes": [{"type": "LoRA"}]}) == ".passes[0].config.r"
    assert field_path(("passes", 0, "LoRA"), data) == ".passes[0].LoRA"
