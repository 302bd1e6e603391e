"""What is wrong with a spec is said with path, value, message and remedy, all of it at once."""

from __future__ import annotations

import pytest

from finetune_api import rules
from finetune_api.problems import Problem

from .specs import BUILDER, LORA, MERGE, QLORA, Spec, changed, job_spec, passes_only


def problems(spec: Spec) -> list[tuple[str, str, str, str]]:
    return [(item.path, item.value, item.message, item.remedy) for item in rules.check(spec)[1]]


@pytest.mark.parametrize(
    "spec",
    [
        job_spec(),
        passes_only(LORA),
        passes_only(QLORA, MERGE),
        passes_only(BUILDER),
        passes_only(QLORA, MERGE, BUILDER),
        passes_only({**LORA, "type": "DoRA"}, MERGE, BUILDER),
        changed(job_spec(), "passes[0].config.evalDatasetSize", 0.3),
        changed(job_spec(), "passes[0].config.evalDatasetSize", 12),
        changed(job_spec(), "passes[0].config.evalDataConfig", "held-out"),
        changed(job_spec(), "dataConfigs[0].preProcessDataConfig.completionOnlyLoss", True),
        changed(job_spec(), "dataConfigs[0].preProcessDataConfig.textTemplate", "{{json}} {phrase} -> {tone}"),
    ],
)
def test_a_right_spec_has_no_problem(spec: Spec) -> None:
    parsed, found = rules.check(spec)
    assert parsed is not None
    assert found == []


TEMPLATE = "dataConfigs[0].preProcessDataConfig.textTemplate"
BETWEEN_FIELDS = [
    (
        changed(job_spec(), "passes[1].name", "lora"),
        ("spec.passes", "lora", "2 items have this name", "Give each its own."),
    ),
    (
        job_spec(dataConfigs=[*job_spec()["dataConfigs"], job_spec()["dataConfigs"][0]]),
        ("spec.dataConfigs", "train", "2 items have this name", "Give each its own."),
    ),
    (
        changed(
            job_spec(),
            "evaluators[0].metrics",
            [{"name": "right", "type": "accuracy", "dataConfig": "held-out", "maxNewTokens": n} for n in (1, 2)],
        ),
        ("spec.evaluators[0].metrics", "right", "2 items have this name", "Give each its own."),
    ),
    *(
        (
            changed(job_spec(), "passes[0].name", name),
            ("spec.passes[0].name", name, "reserved for a stage of the operator", "Choose another name."),
        )
        for name in ("prepare", "publish", "evaluate-input", "evaluate-onnx", "probe-lora")
    ),
    (
        changed(job_spec(), "engine.host", "gpu"),
        ("spec.engine.host", "gpu", "spec.systems has no item of this name", "spec.systems is empty."),
    ),
    (
        changed(job_spec(systems=[{"name": "cpu"}, {"name": "a100"}]), "passes[2].host", "gpu"),
        ("spec.passes[2].host", "gpu", "spec.systems has no item of this name", "There: cpu, a100."),
    ),
    (
        changed(job_spec(), "passes[0].config.trainDataConfig", "tarin"),
        (
            "spec.passes[0].config.trainDataConfig",
            "tarin",
            "spec.dataConfigs has no item of this name",
            "There: train, held-out.",
        ),
    ),
    (
        changed(job_spec(), "engine.evaluator", "none"),
        ("spec.engine.evaluator", "none", "spec.evaluators has no item of this name", "There: tones."),
    ),
    (
        changed(job_spec(), "evaluators[0].metrics[0].dataConfig", "test"),
        (
            "spec.evaluators[0].metrics[0].dataConfig",
            "test",
            "spec.dataConfigs has no item of this name",
            "There: train, held-out.",
        ),
    ),
    (
        passes_only(MERGE, BUILDER),
        (
            "spec.passes[0]",
            "merge",
            "no adapter to merge",
            "Put LoRA, QLoRA or DoRA before it, or give inputModel.adapterPath.",
        ),
    ),
    (
        passes_only(LORA, MERGE, {**MERGE, "name": "again"}),
        ("spec.passes[2]", "again", "no adapter to merge", "Put LoRA, QLoRA or DoRA before it."),
    ),
    (
        passes_only(LORA, {**MERGE, "config": {"baseWeights": "dequantized"}}),
        ("spec.passes[1].config.baseWeights", "dequantized", "lora is no QLoRA pass", "Use original."),
    ),
    (
        passes_only(LORA, BUILDER),
        (
            "spec.passes[1]",
            "onnx",
            "the adapter of lora is not merged",
            "Put MergeAdapterWeights between them.",
        ),
    ),
    (
        passes_only(LORA, MERGE, {**BUILDER, "config": {"precision": "int4", "adapter": "unmerged"}}),
        ("spec.passes[2].config.adapter", "unmerged", "no adapter that is not merged", "Remove it."),
    ),
    (
        passes_only(LORA, MERGE, QLORA),
        ("spec.passes[2]", "qlora", "a second fine-tuning pass", "Use one job for each."),
    ),
    (
        passes_only(BUILDER, LORA),
        ("spec.passes[1]", "lora", "follows onnx, whose ONNX model is final", "Put ModelBuilder last."),
    ),
    (
        changed(job_spec(), "passes[0].config.targetModules", ["all-linear", "o_proj"]),
        ("spec.passes[0].config.targetModules", "all-linear", "means o_proj too", "Let it stand alone."),
    ),
    (
        changed(
            changed(job_spec(), "passes[0].config.targetModules", ["o_proj", "lm_head"]),
            "passes[0].config.modulesToSave",
            ["lm_head"],
        ),
        (
            "spec.passes[0].config.modulesToSave",
            "lm_head",
            "is in targetModules too, and cannot be both trained whole and adapted",
            "Keep one.",
        ),
    ),
    (
        changed(job_spec(), "passes[0].config.rankPattern", {"o_proj": 8, "(qkv": 4}),
        (
            "spec.passes[0].config.rankPattern",
            "(qkv",
            "no regular expression: missing ), unterminated subpattern at position 0",
            "Write the end of a module's name, such as layers.0.self_attn.o_proj.",
        ),
    ),
    (
        passes_only({**LORA, "type": "DoRA", "config": {"trainDataConfig": "train", "sharding": "fsdp"}}),
        (
            "spec.passes[0].config.sharding",
            "fsdp",
            "DoRA's magnitudes need whole weights",
            "Use none, or LoRA or QLoRA alone.",
        ),
    ),
    (
        changed(job_spec(), "passes[2].config.precision", "fp16"),
        (
            "spec.passes[2].config.precision",
            "fp16",
            "the cpu execution provider cannot load fp16",
            "Use int4 or int8 or fp32, or executionProvider cuda or dml.",
        ),
    ),
    (
        passes_only(LORA, MERGE, {**BUILDER, "config": {"precision": "fp32", "int4BlockSize": 32}}),
        ("spec.passes[2].config.int4BlockSize", "32", "only for precision int4 or int8", "Remove it."),
    ),
    (
        changed(job_spec(), TEMPLATE, "{phrase} -> {tones}"),
        (f"spec.{TEMPLATE}", "{tones}", "this column is not in textCols", "There: phrase, tone."),
    ),
    (
        changed(job_spec(), TEMPLATE, "{phrase} -> {tone} }"),
        (
            f"spec.{TEMPLATE}",
            "{phrase} -> {tone} }",
            "Single '}' encountered in format string",
            "Write {{ and }} for braces that are meant.",
        ),
    ),
    (
        changed(job_spec(), TEMPLATE, "{} {tone}"),
        (
            f"spec.{TEMPLATE}",
            "{} {tone}",
            "a placeholder without a column",
            "Write {{ and }} for braces that are meant.",
        ),
    ),
    (
        changed(job_spec(), TEMPLATE, "{phrase!r} {tone}"),
        (
            f"spec.{TEMPLATE}",
            "{phrase!r} {tone}",
            "{phrase} has a format or a conversion, which templates do not know",
            "Write {{ and }} for braces that are meant.",
        ),
    ),
    (
        changed(
            changed(job_spec(), TEMPLATE, "{phrase}"), "dataConfigs[0].preProcessDataConfig.completionOnlyLoss", True
        ),
        (
            f"spec.{TEMPLATE}",
            "tone",
            "the completion, the last of textCols, has no placeholder",
            "Add {tone} or set completionOnlyLoss to false.",
        ),
    ),
    (
        changed(job_spec(), "dataConfigs[1].preProcessDataConfig", {"textCols": ["text"]}),
        (
            "spec.dataConfigs[1].preProcessDataConfig.textCols",
            "text",
            "one column has no prompt and completion",
            "Name the prompt's columns first, the completion's last.",
        ),
    ),
    (
        changed(
            changed(job_spec(), "passes[0].config.evalDatasetSize", 0.5), "passes[0].config.evalDataConfig", "held-out"
        ),
        ("spec.passes[0].config.evalDatasetSize", "0.5", "evalDataConfig is given too", "Keep one."),
    ),
    (
        changed(job_spec(), "passes[0].config.trainingArgs.evalStrategy", "epoch"),
        (
            "spec.passes[0].config.trainingArgs.evalStrategy",
            "epoch",
            "there is nothing to evaluate on",
            "Give evalDatasetSize or evalDataConfig.",
        ),
    ),
    (
        changed(job_spec(), "passes[0].config.evalDatasetSize", 1.5),
        (
            "spec.passes[0].config.evalDatasetSize",
            "1.5",
            "neither a share below 1 nor a count",
            "Use a whole number.",
        ),
    ),
]


@pytest.mark.parametrize(("spec", "expected"), BETWEEN_FIELDS, ids=[item[1][0] for item in BETWEEN_FIELDS])
def test_a_wrong_spec_has_exactly_this_problem(spec: Spec, expected: tuple[str, str, str, str]) -> None:
    assert problems(spec) == [expected]


def test_all_problems_are_said_at_once() -> None:
    spec = changed(job_spec(), "engine.host", "gpu")
    spec = changed(spec, "passes[0].name", "prepare")
    spec = changed(spec, "passes[2].config.precision", "fp16")
    spec = changed(spec, TEMPLATE, "{tones}")
    assert [path for path, *_ in problems(spec)] == [
        "spec.passes[0].name",
        "spec.engine.host",
        "spec.passes[2].config.precision",
        f"spec.{TEMPLATE}",
    ]


def test_a_spec_of_the_wrong_shape_is_not_parsed() -> None:
    parsed, found = rules.check({"passes": []})
    assert parsed is None
    assert {item.path for item in found} == {"spec.inputModel", "spec.passes", "spec.storage"}


def test_a_problem_reads_as_a_sentence() -> None:
    found = Problem(path="spec.storage.uri", value="x", message="no bucket", remedy="Make it.")
    assert str(found) == "spec.storage.uri (x): no bucket. Make it."
    assert str(Problem(path="spec.a", message="no")) == "spec.a: no."


@pytest.mark.parametrize(
    ("amount", "right"),
    [
        ("1", True), (2, True), ("500m", True), ("0.5", True), ("4Gi", True), ("1e3", True), ("1k", True),
        ("", False), ("four", False), ("1 Gi", False), ("-1", False), (-1, False), ("1.2.3", False), ("Gi", False),
        (True, False), (["1"], False),
    ],
)  # fmt: skip
def test_amounts_of_resources_are_quantities(amount: object, right: bool) -> None:
    spec = job_spec(systems=[{"name": "small", "resources": {"limits": {"cpu": amount}}}])
    found = rules.check(spec)[1]
    assert [item.path for item in found] == ([] if right else ["spec.systems[0].resources.limits.cpu"])
    assert all("500m" in item.message for item in found)
