"""Evaluate: what is asked, what is counted, what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_api.model import LoadKwargs
from finetune_api.stage import Reason, StageResult
from finetune_trainer.errors import StageFailure
from finetune_trainer.genai import GenaiModel
from finetune_trainer.generation import Limits
from finetune_trainer.generation_hf import load_hf_generator
from finetune_trainer.metrics import Accuracy
from finetune_trainer.passes import build, evaluate
from finetune_trainer.tokenizer import load_tokenizer


def lines(ran: Any, metric: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ran.folder / f"{metric}.jsonl").read_text().splitlines()]


def test_base_adapter_merged_and_onnx_are_measured_alike(
    accuracy_of: Callable, adapter: Any, merged: Any, built: Any
) -> None:
    found = {
        "base": accuracy_of(),
        "adapter": accuracy_of(adapter=adapter.folder),
        "model": accuracy_of(model=merged.folder),
        "onnx": accuracy_of(onnx=built.folder),
    }
    for role, ran in found.items():
        metrics = ran.output.metrics
        assert set(metrics) == {"tone", "tone/n", "tone/low", "tone/high", "tone/majority"}
        assert metrics["tone/n"] == 48
        assert metrics["tone/low"] <= metrics["tone"] <= metrics["tone/high"]
        assert metrics["tone/majority"] == pytest.approx(0.25)
        summary = json.loads((ran.folder / "summary.json").read_text())
        assert (summary["model"], summary["evaluator"]) == (role, "tones")
        assert summary["metrics"]["tone"]["value"] == metrics["tone"]
    assert found["base"].output.metrics["tone/high"] < 0.5
    assert all(found[role].output.metrics["tone"] >= 0.95 for role in ("adapter", "model", "onnx"))
    prompts = [[line["prompt"] for line in lines(ran, "tone")] for ran in found.values()]
    assert prompts.count(prompts[0]) == 4
    adapted, merged_answers = lines(found["adapter"], "tone"), lines(found["model"], "tone")
    assert adapted == merged_answers


def test_answers_are_written_with_what_they_were_held_to(
    accuracy_of: Callable, merged: Any, rows: dict[str, Any]
) -> None:
    ran = accuracy_of(model=merged.folder)
    written = lines(ran, "tone")
    assert len(written) == 48
    assert [line["reference"] for line in written] == [row["tone"] for row in rows["test"]]
    assert all(line["prompt"].endswith("### The tone is:\n") for line in written)
    assert all(line["correct"] is (line["answer"] == line["reference"]) for line in written)
    assert sum(line["correct"] for line in written) / 48 == ran.output.metrics["tone"]
    steps = [line for line in ran.progress if line.get("activity") == "evaluating tone"]
    assert (steps[-1]["step"], steps[-1]["total"]) == (48, 48)


@pytest.mark.parametrize("role", ["model", "onnx"])
def test_answers_end_at_stop_texts(accuracy_of: Callable, merged: Any, built: Any, role: str) -> None:
    inputs = {role: {"model": merged, "onnx": built}[role].folder}
    stopped = lines(accuracy_of({"stop": ["ear", "o"]}, **inputs), "tone")
    answers = {line["reference"]: line["answer"] for line in stopped}
    assert (answers["fear"], answers["joy"]) == ("f", "j")
    assert answers["sadness"] == "sadness"


def test_onnxruntime_and_transformers_continue_alike(run_stage: Callable, merged: Any) -> None:
    """fp32 both: the same tokens, up to each limit, and none where the context has no room."""
    ran = run_stage(build, "ModelBuilder", {"precision": "fp32"}, inputs={"model": merged.folder})
    models = (GenaiModel(ran.folder), load_hf_generator(merged.folder, LoadKwargs(), None))
    ends = load_tokenizer(merged.folder).end_ids
    prompts = [[300, 310, 320], [290] * 20, [400] * 254, [400] * 256]
    for limits in (
        Limits(12, ends, lambda ids: False),
        Limits(12, ends | set(range(400)), lambda ids: False),
        Limits(12, ends, lambda ids: len(ids) == 3),
    ):
        onnx, torch = (dict(model.generate(prompts, limits)) for model in models)
        assert onnx == torch
        assert all(not limits.end_ids & set(ids) for ids in onnx.values())
        assert len(onnx[2]) <= 2
        assert onnx[3] == []
    assert any(len(ids) == 3 for ids in onnx.values())


def test_max_samples_bounds_the_questions(run_stage: Callable, merged: Any) -> None:
    config = {"name": "e", "metrics": [{"name": "tone", "type": "accuracy", "dataConfig": "test", "maxNewTokens": 8}]}
    ran = run_stage(evaluate, "Evaluate", config, inputs={"model": merged.folder}, data={"test": {"maxSamples": 5}})
    assert ran.output.metrics["tone/n"] == 5


@pytest.mark.parametrize(
    ("own_rows", "reason"),
    [([], Reason.NO_SAMPLES), ([{"phrase": "x"}], Reason.COLUMN_NOT_FOUND)],
    ids=["no rows", "no column"],
)
def test_rows_that_cannot_be_asked_are_named(
    run_stage: Callable, merged: Any, own_rows: list[dict[str, Any]], reason: Reason
) -> None:
    config = {"name": "e", "metrics": [{"name": "tone", "type": "accuracy", "dataConfig": "test"}]}
    with pytest.raises(StageFailure) as caught:
        inputs = {"model": merged.folder}
        run_stage(evaluate, "Evaluate", config, inputs=inputs, data={"test": {}}, own_rows={"test": own_rows})
    assert caught.value.reason is reason
    assert caught.value.problems[0].path.startswith("spec.dataConfigs[name=test]")


@pytest.mark.parametrize(("metrics", "each"), [(1, 5), (4, 5), (5, 4), (8, 3)])
def test_a_result_holds_the_figures_of_as_many_metrics_as_an_evaluator_may_have(metrics: int, each: int) -> None:
    found = {f"metric-{index:025}": Accuracy(0.5, 10, 0.2, 0.8, 0.3) for index in range(metrics)}
    figures = evaluate.figures(found)
    assert len(figures) == metrics * each
    assert {f"{name}/n" for name in found} <= figures.keys()
    StageResult(key="0" * 64, ok=True, metrics=figures)
