"""Evaluate: what is asked, what is counted, what is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.evaluators import Evaluator
from finetune_api.model import LoadKwargs
from finetune_api.stage import Reason, StageResult
from finetune_trainer.errors import StageFailure
from finetune_trainer.evaluation import answers
from finetune_trainer.evaluation.figures import figures
from finetune_trainer.evaluation.model import load_subject
from finetune_trainer.evaluation.questions import RowReader
from finetune_trainer.genai import GenaiModel
from finetune_trainer.generation import Limits
from finetune_trainer.generation_hf import load_hf_generator
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


@pytest.mark.parametrize(("metrics", "each"), [(1, 6), (4, 6), (5, 4), (8, 3)])
def test_a_result_holds_the_figures_of_as_many_metrics_as_an_evaluator_may_have(metrics: int, each: int) -> None:
    names = [f"metric-{index:025}" for index in range(metrics)]
    found = {name: answers.measure(["a", "b"], ["a", "c"]) for name in names}
    said = figures(found, dict.fromkeys(names, True))
    assert len(said) == metrics * each
    assert {f"{name}/n" for name in found} | {f"{name}/goal" for name in found} <= said.keys()
    StageResult(key="0" * 64, ok=True, metrics=said)


TONE = {"name": "tone", "type": "accuracy", "dataConfig": "test", "maxNewTokens": 8}
SIZE = {"name": "size", "type": "size_on_disk"}
EVERYTHING = [
    TONE,
    {"name": "surprise", "type": "perplexity", "dataConfig": "test"},
    {"name": "wait", "type": "latency", "promptLength": 20, "newTokens": 4, "warmupRuns": 1, "runs": 5, "batchSize": 2},
    {"name": "speed", "type": "throughput", "dataConfig": "test", "promptLength": 12, "newTokens": 4, "runs": 3},
    SIZE,
]


@pytest.fixture(scope="session")
def measured(run_stage: Callable) -> Callable:
    """measured(metrics, inputs by role, evaluator's other fields) -> the Evaluate stage that ran."""

    def measure(metrics: list[dict[str, Any]], inputs: dict[str, Any], **settings: Any) -> Any:
        config = {"name": "e", "metrics": metrics, **settings}
        return run_stage(evaluate, "Evaluate", config, inputs=inputs, data={"test": {}})

    return measure


def summary(ran: Any) -> dict[str, Any]:
    return json.loads((ran.folder / "summary.json").read_text())["metrics"]


def test_every_type_of_metric_is_measured_alike_on_transformers_and_onnxruntime(
    measured: Callable, merged: Any, built: Any
) -> None:
    folders = {"model": merged.folder, "onnx": built.folder}
    found = {role: measured(EVERYTHING, {role: folder}) for role, folder in folders.items()}
    for role, ran in found.items():
        said, metrics = summary(ran), ran.output.metrics
        assert 1.0 <= said["surprise"]["low"] <= said["surprise"]["value"] <= said["surprise"]["high"] < 2
        assert said["surprise"]["n"] == 48
        scores = lines(ran, "surprise")
        again = math.exp(sum(line["nll"] for line in scores) / sum(line["tokens"] for line in scores))
        assert again == pytest.approx(metrics["surprise"])
        wait = said["wait"]
        assert 0 < wait["first_token_p50"] <= wait["p50"] == wait["value"] <= wait["p90"] <= wait["p99"]
        assert wait["n"] == 5
        assert said["speed"]["value"] > 0
        assert said["speed"]["prompt"] > 0
        assert metrics["size"] == sum(path.stat().st_size for path in folders[role].rglob("*") if path.is_file())
        assert said["tone"]["labels"] == ["fear", "joy", "sadness", "surprise"]
        assert sum(map(sum, said["tone"]["confusion"])) == 48
        assert sum(item["correct"] for item in said["tone"]["classes"].values()) == round(48 * metrics["tone"])
    torch, onnx = (ran.output.metrics for ran in found.values())
    assert torch["surprise"] == pytest.approx(onnx["surprise"], rel=0.2)
    assert onnx["size"] != torch["size"]


def test_loss_is_measured_on_all_tokens_or_on_completions(measured: Callable, merged: Any) -> None:
    metrics = [{"name": on, "type": "perplexity", "dataConfig": "test", "lossOn": on} for on in ("all", "completion")]
    said = summary(measured(metrics, {"model": merged.folder}))
    assert said["all"]["tokens"] > 3 * said["completion"]["tokens"]
    assert said["all"]["value"] > said["completion"]["value"]


def test_a_request_that_the_context_has_no_room_for_is_refused(measured: Callable, merged: Any) -> None:
    metric = {"name": "wait", "type": "latency", "promptLength": 250, "newTokens": 7}
    with pytest.raises(StageFailure, match="do not fit the model's context of 256"):
        measured([metric], {"model": merged.folder})


def test_a_missed_goal_fails_with_its_figures_or_only_warns(
    measured: Callable, accuracy_of: Callable, merged: Any
) -> None:
    inputs = {"model": merged.folder, "reference": accuracy_of().folder}
    better = TONE | {"goal": {"type": "min-improvement", "value": 0.5}}
    small = SIZE | {"goal": {"type": "threshold", "value": 10}}
    assert measured([better], inputs).output.metrics["tone/goal"] == 1
    warned = measured([better, small], inputs, onMissedGoal="warn")
    assert (warned.output.metrics["tone/goal"], warned.output.metrics["size/goal"]) == (1, 0)
    goal = summary(warned)["size"]["goal"]
    assert goal == {"type": "threshold", "value": 10, "bound": 10, "reference": None, "met": False}
    with pytest.raises(StageFailure) as caught:
        measured([better, small], inputs)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.GOAL_NOT_MET, 65)
    assert [item.path for item in caught.value.problems] == ["spec.evaluators[name=e].metrics[name=size].goal"]
    assert "wanted is at most 10" in caught.value.message


def test_validation_rows_are_never_measured(measured: Callable, merged: Any) -> None:
    ran = measured([TONE], {"model": merged.folder}, validationSize=12)
    evaluator = Evaluator.model_validate(ran.context.document.config)
    kept = RowReader(ran.context, evaluator, load_tokenizer(merged.folder), validation=True).questions("test")
    asked = {line["prompt"] for line in lines(ran, "tone")}
    assert (len(asked), len(kept)) == (36, 12)
    assert not asked & {question.prompt for question in kept}


def test_a_qlora_adapter_is_measured_on_the_quantized_base(measured: Callable, adapter: Any) -> None:
    context = measured([SIZE], {"adapter": adapter.folder}).context
    kinds = {}
    for kind in ("LoRA", "QLoRA"):
        upstream = SimpleNamespace(type=kind, config={"trainDataConfig": "train"})
        subject = load_subject(replace(context, upstream={"adapter": upstream}))
        kinds[kind] = {type(module).__name__ for module in subject.model._model.modules()}
    assert "Linear4bit" in kinds["QLoRA"]
    assert "Linear4bit" not in kinds["LoRA"]
