"""What the tests of passes share: a base model that knows a layout but no mapping, and stages that ran on it.

The base is trained on phrases with *random* tones, so it answers with a tone and is right by chance. Which tone
belongs to which verb only fine-tuning tells.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.stage import StageDocument
from finetune_trainer.context import PassOutput, Row, StageContext
from finetune_trainer.report import Reporter
from finetune_trainer.tokenizer import load_tokenizer

torch.set_num_threads(1)

VERBS = {
    "joy": ("laughed at", "loved", "cheered for"),
    "sadness": ("cried over", "missed", "mourned"),
    "fear": ("ran from", "feared", "hid from"),
    "surprise": ("gasped at", "never expected", "stared at"),
}
SUBJECTS = ("I", "We", "She", "The neighbour")
THINGS = ("the little dog.", "an old letter!", "her own wedding,", "the long rain?")
TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
BASE_URI = "s3://models/tiny"


@dataclass(frozen=True)
class Ran:
    """A stage that ran: where, what it gave back, and what it said."""

    context: StageContext
    output: PassOutput
    said: str

    @property
    def folder(self) -> Path:
        return self.context.output

    @property
    def progress(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said.splitlines() if line.startswith("{")]


@pytest.fixture(scope="session")
def rows() -> dict[str, list[Row]]:
    """`train` and `test`: every verb in both, no phrase in both."""
    split: dict[str, list[Row]] = {"train": [], "test": []}
    for tone, verbs in VERBS.items():
        for verb in verbs:
            for place, (subject, thing) in enumerate(product(SUBJECTS, THINGS)):
                # One thing in four per subject is held out, each thing once: 12 test rows of every tone.
                held_out = place % 4 == place // 4
                split["test" if held_out else "train"].append({"phrase": f"{subject} {verb} {thing}", "tone": tone})
    return split


@pytest.fixture(scope="session")
def base_model(tiny_model: Path, rows: dict[str, list[Row]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(tiny_model, folder)
    teach_layout(folder, rows["train"])
    return folder


def teach_layout(folder: Path, rows: list[Row]) -> None:
    """Trains the model in `folder` on phrases with random tones: it answers with a tone then, and knows nothing."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(folder)
    rng, tones = random.Random(2), list(VERBS)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, fused=True)
    for _ in range(150):
        texts = [TEMPLATE.format(phrase=row["phrase"], tone=rng.choice(tones)) for row in rng.sample(rows, 16)]
        ids = [[*item.ids, tokenizer.eos_id] for item in tokenizer.encode_all(texts)]
        width = max(map(len, ids))
        batch = torch.tensor([line + [0] * (width - len(line)) for line in ids])
        labels = torch.tensor([line + [-100] * (width - len(line)) for line in ids])
        model(input_ids=batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def data_config(name: str, **process: Any) -> dict[str, Any]:
    settings = {"textCols": ["phrase", "tone"], "textTemplate": TEMPLATE, "maxSeqLen": 64, "completionOnlyLoss": True}
    settings["strategy"] = "line-by-line"
    return {
        "name": name,
        "loadDatasetConfig": {"dataFiles": [f"s3://data/{name}.json"]},
        "preProcessDataConfig": settings | process,
    }


@pytest.fixture(scope="session")
def make_stage(base_model: Path, rows: dict[str, list[Row]], tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """make_stage(type, config, …) -> (StageContext, the stream that it reports to)."""

    def make(
        kind: str,
        config: dict[str, Any],
        *,
        inputs: dict[str, Path] | None = None,
        base: Path | None = base_model,
        data: dict[str, dict[str, Any]] | None = None,
        own_rows: dict[str, list[Row]] | None = None,
        load: dict[str, Any] | None = None,
        evaluator: dict[str, Any] | None = None,
    ) -> tuple[StageContext, io.StringIO]:
        folder = tmp_path_factory.mktemp(kind.lower())
        for name in ("output", "scratch"):
            (folder / name).mkdir()
        document = StageDocument.model_validate(
            {
                "job": {"namespace": "team", "name": "job", "uid": "u", "generation": 1},
                "stage": f"my-{kind.lower()}",
                "type": kind,
                "key": "0" * 64,
                "attempt": "a1",
                "config": config,
                "evaluator": evaluator,
                "storage": {"uri": "s3://bucket/prefix"},
                "inputModel": {"modelPath": BASE_URI, "loadKwargs": load or {}},
                "data": [data_config(name, **process) for name, process in (data or {}).items()],
            }
        )
        stream = io.StringIO()
        available = own_rows or rows
        context = StageContext(
            document,
            inputs or {},
            base,
            folder / "output",
            folder / "scratch",
            Reporter(stream),
            lambda name: available[name],
        )
        return context, stream

    return make


@pytest.fixture(scope="session")
def run_stage(make_stage: Callable) -> Callable[..., Ran]:
    """run_stage(pass module, type, config, …) -> Ran."""

    def run(module: Any, kind: str, config: dict[str, Any], **settings: Any) -> Ran:
        context, stream = make_stage(kind, config, **settings)
        output = module.run(context)
        return Ran(context, output, stream.getvalue())

    return run


@pytest.fixture(scope="session")
def lora_config() -> Callable[..., dict[str, Any]]:
    """A LoRA config that learns the mapping in seconds; keyword arguments override training arguments.

    120 steps at twice the rate knew it on one kind of CPU, and 15 of 16 phrases on another, which rounds otherwise;
    with these every seed tried knows all of it on both.
    """

    def make(passes: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
        training = {
            "perDeviceTrainBatchSize": 8,
            "learningRate": 5e-3,
            "lrSchedulerType": "cosine",
            "warmupSteps": 5,
            "maxSteps": 180,
            "loggingSteps": 30,
        }
        config = {"trainDataConfig": "train", "r": 16, "alpha": 32, "loraDropout": 0.05}
        return config | (passes or {}) | {"trainingArgs": training | args}

    return make


@pytest.fixture(scope="session")
def adapter(run_stage: Callable[..., Ran], lora_config: Callable) -> Ran:
    """LoRA, trained until it knows the mapping."""
    from finetune_trainer.passes import lora

    return run_stage(lora, "LoRA", lora_config({"evalDatasetSize": 0.1}), data={"train": {}})


@pytest.fixture(scope="session")
def merged(run_stage: Callable[..., Ran], adapter: Ran) -> Ran:
    from finetune_trainer.passes import merge

    return run_stage(merge, "MergeAdapterWeights", {}, inputs={"adapter": adapter.folder})


@pytest.fixture(scope="session")
def accuracy_of(run_stage: Callable[..., Ran]) -> Callable[..., Ran]:
    """accuracy_of(role=folder) -> the Evaluate stage that measured that model on the held-out phrases."""
    from finetune_trainer.passes import evaluate

    def measure(metric: dict[str, Any] | None = None, base: Path | None = None, **inputs: Path) -> Ran:
        metrics = [{"name": "tone", "type": "accuracy", "dataConfig": "test", "maxNewTokens": 8} | (metric or {})]
        config = {"name": "tones", "metrics": metrics}
        settings = {"base": base} if base else {}
        return run_stage(evaluate, "Evaluate", config, inputs=inputs, data={"test": {}}, **settings)

    return measure


@pytest.fixture(scope="session")
def built(run_stage: Callable[..., Ran], merged: Ran) -> Ran:
    """The int4 ONNX model of `merged`, not yet checked."""
    from finetune_trainer.passes import build

    return run_stage(build, "ModelBuilder", {"precision": "int4"}, inputs={"model": merged.folder}, data={"train": {}})
