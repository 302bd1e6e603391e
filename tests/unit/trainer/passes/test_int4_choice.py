"""int4AlgoConfig auto, on a model that 4 bits suit, and on its hostile twin: the same function in other weights."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from finetune_api.stage import ExitCode, Reason
from finetune_trainer import int4_choice
from finetune_trainer.errors import StageFailure
from finetune_trainer.evaluation.paired import Difference
from finetune_trainer.int4_choice import Candidate, Try
from finetune_trainer.passes import build, evaluate
from finetune_trainer.tokenizer import load_tokenizer

from ..conftest import phi3_weights
from .conftest import TEMPLATE

TONE = {"name": "tone", "type": "accuracy", "dataConfig": "test", "maxNewTokens": 8}
LOSS = {"name": "loss", "type": "perplexity", "dataConfig": "test"}
GOAL = {"goal": {"type": "percent-max-degradation", "value": 10}}
EVALUATOR = {"name": "e", "metrics": [TONE | GOAL], "validationSize": 0.5}
AUTO = {"precision": "int4", "int4AlgoConfig": "auto"}
# The check beside other texts is hard on the twin too: with this, what is looked at are the goals.
LENIENT = {"maxPerplexityRatio": 1e9, "minTop1Agreement": 0}
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="session")
def phrases(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Every phrase there is, so that luck in drawing validation rows decides little."""
    return {"test": [*rows["train"], *rows["test"]]}


@pytest.fixture(scope="session")
def learned(tiny_model: Path, phrases: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Phi-3 of 128 hidden units that knows every phrase's tone."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("learned") / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text()) | SHAPE
    (folder / "config.json").write_text(json.dumps(config))
    shape = {name: value for name, value in config.items() if isinstance(value, int)}
    save_arrays(phi3_weights(shape), folder / "model.safetensors", metadata={"format": "pt"})
    model, tokenizer, drawn = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(folder), random.Random(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, fused=True)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=150)
    for _ in range(150):
        texts = [TEMPLATE.format(**row) for row in drawn.sample(phrases["test"], 16)]
        ids = [[*item.ids, tokenizer.eos_id] for item in tokenizer.encode_all(texts)]
        width = max(map(len, ids))
        batch = torch.tensor([line + [0] * (width - len(line)) for line in ids])
        labels = torch.tensor([line + [-100] * (width - len(line)) for line in ids])
        model(input_ids=batch, labels=labels).loss.backward()
        optimizer.step()
        slower.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def twin(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same function: every 16th weight of each RMSNorm divided by 30, the next linear's columns 30 times larger."""
    folder = tmp_path_factory.mktemp("twin") / "model"
    shutil.copytree(learned, folder)
    tensors = load_file(folder / "model.safetensors")
    pairs = [("model.norm", "lm_head")]
    for layer in range(SHAPE["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        pairs.append((f"{name}.input_layernorm", f"{name}.self_attn.qkv_proj"))
        pairs.append((f"{name}.post_attention_layernorm", f"{name}.mlp.gate_up_proj"))
    for norm, linear in pairs:
        tensors[f"{norm}.weight"][::16] /= 30
        tensors[f"{linear}.weight"][:, ::16] *= 30
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def staged(run_stage: Callable, phrases: dict[str, list[Any]]) -> Callable:
    """staged(module, type, config, inputs=…) -> a stage over all phrases."""

    def run(module: Any, kind: str, config: dict[str, Any], **settings: Any) -> Any:
        return run_stage(module, kind, config, data={"test": {}}, own_rows=phrases, **settings)

    return run


@pytest.fixture(scope="session")
def reference(staged: Callable, twin: Path) -> Any:
    """The twin itself, measured on the test rows."""
    plain = {"name": "e", "metrics": [TONE], "validationSize": 0.5}
    return staged(evaluate, "Evaluate", plain, inputs={"model": twin})


def test_the_twins_default_int4_diverges_and_misses_its_goal(staged: Callable, twin: Path, reference: Any) -> None:
    built = staged(build, "ModelBuilder", {"precision": "int4"}, inputs={"model": twin})
    with pytest.raises(StageFailure) as caught:
        build.check(built.context)
    assert caught.value.reason is Reason.ONNX_DIVERGED
    assert reference.output.metrics["tone"] >= 0.98, "it is the same function as before"
    inputs = {"onnx": built.folder, "reference": reference.folder}
    with pytest.raises(StageFailure) as caught:
        staged(evaluate, "Evaluate", EVALUATOR, inputs=inputs)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.GOAL_NOT_MET, ExitCode.RESULT_REFUSED)


def test_auto_finds_what_suits_the_twin_and_the_test_rows_agree(staged: Callable, twin: Path, reference: Any) -> None:
    ran = staged(build, "ModelBuilder", AUTO, inputs={"model": twin}, evaluator=EVALUATOR)
    build.check(ran.context)
    said = json.loads((ran.folder / int4_choice.FILE).read_text())
    names = [item["name"] for item in said["tries"]]
    assert names == [item.name for item in int4_choice.CANDIDATES[: len(names)]]
    assert len(names) > 2, "neither of the smallest is good enough"
    assert (said["chosen"], said["sure"], said["rows"]) == (names[-1], True, {"tone": 96})
    assert [item["sure"] for item in said["tries"]] == [False] * (len(names) - 1) + [True]
    assert said["tries"][-1]["margins"]["tone"]["low"] >= 0
    assert (said["settings"], said["confidence"]) == (6, pytest.approx(1 - 0.05 / 6)), "each has its share of 5 %"
    figures = ran.output.metrics
    assert (figures["tries"], figures["sure"]) == (len(names), 1)
    assert figures[f"try/{names[-1]}/tone"] == said["tries"][-1]["values"]["tone"]
    inputs = {"onnx": ran.folder, "reference": reference.folder}
    measured = staged(evaluate, "Evaluate", EVALUATOR, inputs=inputs).output.metrics
    assert (measured["tone/n"], measured["tone/goal"]) == (96, 1)


def test_auto_takes_the_smallest_where_it_is_good_enough(staged: Callable, learned: Path) -> None:
    goals = {**EVALUATOR, "metrics": [TONE | GOAL, LOSS | GOAL]}
    ran = staged(build, "ModelBuilder", AUTO, inputs={"model": learned}, evaluator=goals)
    said = json.loads((ran.folder / int4_choice.FILE).read_text())
    assert [item["name"] for item in said["tries"]] == ["default-128"]
    assert set(said["tries"][0]["margins"]) == {"tone", "loss"}


def test_where_none_will_do_every_try_is_named(staged: Callable, twin: Path) -> None:
    config = AUTO | LENIENT | {"maxTries": 2}
    with pytest.raises(StageFailure) as caught:
        staged(build, "ModelBuilder", config, inputs={"model": twin}, evaluator=EVALUATOR)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.GOAL_NOT_MET, ExitCode.RESULT_REFUSED)
    assert "(default-128: tone 0" in caught.value.message
    assert "; default-32: tone 0" in caught.value.message


# --- which of some tries is taken


def tried(name: str, value: float, low: float, broken: str = "") -> Try:
    return Try(Candidate(name, 32), 1, {"tone": 0.9}, {"tone": Difference(value, low, value * 2 - low)}, broken)


SURE, LUCKY, LUCKIER = tried("sure", 0.08, 0.01), tried("lucky", 0.02, -0.04), tried("luckier", 0.03, -0.01)
MISSED, BROKEN = tried("missed", -0.02, -0.08), tried("broken", 0.1, 0.05, "it diverged")


@pytest.mark.parametrize(
    ("outcomes", "asked", "chosen"),
    [
        ([SURE, LUCKY], 1, "sure"),
        ([LUCKY, SURE, LUCKIER], 2, "sure"),
        ([LUCKY, MISSED, LUCKIER, BROKEN], 4, "luckier"),
        ([LUCKIER, LUCKY], 2, "luckier"),
        ([BROKEN, MISSED], 2, Reason.GOAL_NOT_MET),
        ([BROKEN, BROKEN], 2, Reason.ONNX_DIVERGED),
    ],
)
def test_what_is_sure_comes_first_and_what_is_likeliest_after_it(
    make_stage: Callable, monkeypatch: pytest.MonkeyPatch, outcomes: list[Try], asked: int, chosen: Any, tmp_path: Path
) -> None:
    config = build.ModelBuilderConfig.model_validate(AUTO)

    class Told:
        def __init__(self) -> None:
            self.source: dict[str, Any] = {}
            self.config, self.tail = config, 0.01

        def tried(self, folder: Path, candidate: Candidate) -> Try:
            return outcomes[int(folder.name.removeprefix("try-")) - 1]

    built: list[str] = []

    def make(folder: Path, config: Any) -> None:
        built.append(folder.name)
        (folder / "model.onnx").write_text(folder.name)

    monkeypatch.setattr(int4_choice.Chooser, "beside", lambda *_: Told())
    monkeypatch.setattr(int4_choice, "CANDIDATES", int4_choice.CANDIDATES[: len(outcomes)])
    context, _ = make_stage("ModelBuilder", AUTO, evaluator=EVALUATOR)
    if isinstance(chosen, Reason):
        with pytest.raises(StageFailure) as caught:
            int4_choice.choose(context, tmp_path, config, make)
        assert caught.value.reason is chosen
        assert len(built) == asked
        return
    figures = int4_choice.choose(context, tmp_path, config, make)
    said = json.loads((context.output / int4_choice.FILE).read_text())
    assert (said["chosen"], len(built)) == (f"{chosen}-32", asked)
    assert figures["sure"] == said["sure"] == (chosen == "sure")
    number = [item.candidate.algo for item in outcomes].index(chosen) + 1
    assert (context.output / "model.onnx").read_text() == f"try-{number}"


def test_what_is_said_of_a_try_is_in_its_metrics_unit() -> None:
    told = replace(MISSED, types={"tone": "accuracy"})
    assert told.verdict == "tone misses its goal by 2.0 points"
    assert replace(MISSED, types={"tone": "perplexity"}).verdict == "tone misses its goal by 0.02"
    assert replace(LUCKY, types={"tone": "accuracy"}).verdict == "tone meets its goal by 2.0 points, which may be luck"


def test_an_interval_without_an_end_is_never_sure() -> None:
    assert tried("wide", 0.1, -math.inf).sureness == -math.inf
    assert SURE.sureness >= 0 > LUCKIER.sureness > LUCKY.sureness > MISSED.sureness
