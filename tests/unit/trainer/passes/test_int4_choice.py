"""int4AlgoConfig auto on a model whose weights suit plain int4 badly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from finetune_api.stage import ExitCode, Reason
from finetune_trainer import int4_choice
from finetune_trainer.errors import StageFailure
from finetune_trainer.passes import build, evaluate

TONE = {"name": "tone", "type": "accuracy", "dataConfig": "test", "maxNewTokens": 8}
GOAL = {"goal": {"type": "percent-max-degradation", "value": 10}}
EVALUATOR = {"name": "e", "metrics": [TONE | GOAL], "validationSize": 0.5}
# The twin is hard on a check beside other texts too: what is looked at here are the goals.
LENIENT = {"precision": "int4", "maxPerplexityRatio": 1e9, "minTop1Agreement": 0}


def scale_channels(tensors: dict[str, Any], norm: str, linear: str) -> None:
    """The same function, but every 8th channel's weights are 30 times what they were."""
    tensors[f"{norm}.weight"][::8] /= 30
    tensors[f"{linear}.weight"][:, ::8] *= 30


@pytest.fixture(scope="session")
def twins(merged: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The merged model's twins: `everywhere` all of its weights suit 4 bits badly, `at the end` those of its head."""
    layers = [
        (f"model.layers.{layer}.{norm}", f"model.layers.{layer}.{linear}")
        for layer in range(2)
        for norm, linear in (
            ("input_layernorm", "self_attn.qkv_proj"),
            ("post_attention_layernorm", "mlp.gate_up_proj"),
        )
    ]
    made = {}
    for name, pairs in {"everywhere": layers, "at the end": [("model.norm", "lm_head")]}.items():
        folder = tmp_path_factory.mktemp("hostile") / "model"
        shutil.copytree(merged.folder, folder)
        tensors = load_file(folder / "model.safetensors")
        for norm, linear in pairs:
            scale_channels(tensors, norm, linear)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        made[name] = folder
    return made


@pytest.fixture(scope="session")
def hostile(twins: dict[str, Path]) -> Path:
    """The twin that no setting of 4 bits suits."""
    return twins["everywhere"]


def test_the_default_diverges_or_misses_its_goal(run_stage: Callable, accuracy_of: Callable, hostile: Path) -> None:
    inputs = {"model": hostile}
    built = run_stage(build, "ModelBuilder", {"precision": "int4"}, inputs=inputs, data={"train": {}})
    with pytest.raises(StageFailure) as caught:
        build.check(built.context)
    assert caught.value.reason is Reason.ONNX_DIVERGED
    reference = accuracy_of(model=hostile)
    assert reference.output.metrics["tone"] >= 0.95, "it is the same function"
    config = {"name": "e", "metrics": [TONE | GOAL]}
    inputs = {"onnx": built.folder, "reference": reference.folder}
    with pytest.raises(StageFailure) as caught:
        run_stage(evaluate, "Evaluate", config, inputs=inputs, data={"test": {}})
    assert (caught.value.reason, caught.value.exit_code) == (Reason.GOAL_NOT_MET, ExitCode.RESULT_REFUSED)


@pytest.fixture(scope="session")
def many_rows(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Every phrase there is, so that luck in drawing validation rows decides little."""
    return {"test": [*rows["train"], *rows["test"]]}


def test_auto_finds_the_smallest_that_meets_the_goal_and_the_test_rows_agree(
    run_stage: Callable, twins: dict[str, Path], many_rows: dict[str, list[Any]]
) -> None:
    """Only the last product needs 8 bits here, which is what the fourth setting gives it."""
    hostile = twins["at the end"]
    config, given = LENIENT | {"int4AlgoConfig": "auto"}, {"data": {"test": {}}, "own_rows": many_rows}
    ran = run_stage(build, "ModelBuilder", config, inputs={"model": hostile}, evaluator=EVALUATOR, **given)
    said = json.loads((ran.folder / int4_choice.FILE).read_text())
    names = [item["name"] for item in said["tries"]]
    assert names == [item.name for item in int4_choice.CANDIDATES[: len(names)]]
    assert len(names) > 1, "the smallest is not good enough here"
    assert said["chosen"] == names[-1]
    assert [bool(item["refused"]) for item in said["tries"]] == [True] * (len(names) - 1) + [False]
    assert ran.output.metrics["tries"] == len(names)
    assert ran.output.metrics[f"try/{names[-1]}/tone"] >= 0.9 * said["source"]["tone"]
    assert (ran.folder / "model.onnx").is_file()
    plain = {"name": "e", "metrics": [TONE], "validationSize": 0.5}
    reference = run_stage(evaluate, "Evaluate", plain, inputs={"model": hostile}, **given)
    inputs = {"onnx": ran.folder, "reference": reference.folder}
    measured = run_stage(evaluate, "Evaluate", EVALUATOR, inputs=inputs, **given)
    assert measured.output.metrics["tone/n"] == 96
    assert measured.output.metrics["tone/goal"] == 1


def test_where_none_will_do_every_try_is_named(run_stage: Callable, hostile: Path) -> None:
    config = LENIENT | {"int4AlgoConfig": "auto", "maxTries": 1}
    with pytest.raises(StageFailure) as caught:
        run_stage(build, "ModelBuilder", config, inputs={"model": hostile}, data={"test": {}}, evaluator=EVALUATOR)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.GOAL_NOT_MET, ExitCode.RESULT_REFUSED)
    assert "default-128: tone 0." in caught.value.message
