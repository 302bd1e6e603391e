"""The evidence of a run that shows everything a report can: made up, so that a page can be looked at without models."""

from __future__ import annotations

import math
import random
from typing import Any

from finetune_api.stage import DataPin, JobRef, Manifest, ManifestFile, ModelPin, Pins, Progress, StageInput
from finetune_trainer.evaluation import answers, perplexity, speed
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.perplexity import Score
from finetune_trainer.generation import Timing
from finetune_trainer.reporting.evidence import Evaluation, Evidence, StageRecord

TONES = ("fear", "joy", "sadness", "surprise")
ROWS = 96
# Of a hundred answers to each model so many are right.
SKILL = {"base": 26, "adapter": 97, "model": 97, "onnx": 91}
STAGES = {
    "evaluate-input": ("Evaluate", {}, 4.2, 0),
    "lora": ("QLoRA", {}, 6131.0, 18_874_368),
    "evaluate-lora": ("Evaluate", {"adapter": "lora"}, 95.0, 1_240),
    "merge": ("MergeAdapterWeights", {"adapter": "lora"}, 64.0, 7_641_000_000),
    "evaluate-merge": ("Evaluate", {"model": "merge"}, 80.0, 1_240),
    "builder": ("ModelBuilder", {"model": "merge"}, 431.0, 2_723_000_000),
    "evaluate-builder": ("Evaluate", {"onnx": "builder", "reference": "evaluate-input"}, 51.0, 1_240),
}
OF_ROLE = {
    "base": "evaluate-input",
    "adapter": "evaluate-lora",
    "model": "evaluate-merge",
    "onnx": "evaluate-builder",
}


def finished_run(text: str = "The long rain never ends.", name: str = "tone") -> Evidence:
    """A QLoRA run with every kind of metric and a chosen quantization; `text` is in all that users write."""
    pins = Pins(
        model=ModelPin(digest="a" * 64, revision="main", architecture="Phi3ForCausalLM", size=7_642_181_880),
        data={"train": DataPin(digest="b" * 64, rows=800), "test": DataPin(digest="c" * 64, rows=ROWS)},
    )
    job = JobRef(namespace="team-a", name="phi3-emotions", uid="u", generation=3, run_id="nightly")
    spec = {"inputModel": {"modelPath": text}, "passes": [{"name": "lora", "type": "QLoRA"}], "text": text}
    stages = [_record(number, *item, job) for number, item in enumerate(STAGES.items())]
    evaluations = [_evaluation(role, stage, name, text) for role, stage in OF_ROLE.items()]
    return Evidence(job, spec, pins, stages, _training(), evaluations, _quantization(name))


def _record(number: int, stage: str, made: tuple[str, dict[str, str], float, int], job: JobRef) -> StageRecord:
    kind, inputs, seconds, size = made
    manifest = Manifest(
        stage=stage,
        type=kind,
        key=f"{number:x}" * 64,
        attempt="a1",
        job=job,
        inputs={role: StageInput(stage=name, key="1" * 64, digest="2" * 64) for role, name in inputs.items()},
        files=[ManifestFile(path="file", size=size, sha256="d" * 64)],
        metrics={"tokens_per_second": 25_712.4} if kind == "QLoRA" else {},
        versions={"torch": "2.13.0", "transformers": "5.23.0"},
        usage={"seconds": seconds, "memory_bytes": 2.3e9, **({"gpu_memory_bytes": 4.6e10} if number == 1 else {})},
        started_at="2026-01-01T00:00:00Z",
        finished_at=f"2026-01-01T00:{number:02}:12Z",
    )
    return StageRecord(manifest, f"{15 - number:x}" * 64)


def _evaluation(role: str, stage: str, name: str, text: str) -> Evaluation:
    drawn = random.Random(stage)
    references = [TONES[row % 4] for row in range(ROWS)]
    given = [right if drawn.randrange(100) < SKILL[role] else drawn.choice((*TONES, "?")) for right in references]
    tries = [Timing(0.004 + drawn.random() / 900, 0.09 + drawn.random() / 50) for _ in range(20)]
    scores = [Score(drawn.random() * (9 if role == "base" else 0.8), 3) for _ in range(ROWS)]
    timed = {kind: speed.measure(speed_metric(kind), tries) for kind in ("latency", "throughput")}
    found = {
        name: answers.measure(given, references),
        "surprise-in-completions": perplexity.measure(scores),
        **timed,
        "size": Measured("size_on_disk", 2.7e9 if role == "onnx" else 7.6e9, {"n": 4.0}),
    }
    lines = [
        {
            "prompt": f"### Text: {text}\n### The tone is:\n",
            "reference": right,
            "answer": said,
            "correct": said == right,
        }
        for right, said in zip(references, given, strict=True)
    ]
    said = {key: _said(item) for key, item in found.items()}
    if role == "onnx":
        bound = 0.9 * 0.97
        met = said[name]["value"] >= bound
        said[name]["goal"] = {
            "type": "percent-max-degradation",
            "value": 10,
            "bound": bound,
            "reference": 0.97,
            "met": met,
        }
        said["size"]["goal"] = {"type": "threshold", "value": 2e9, "bound": 2e9, "reference": None, "met": False}
    return Evaluation(stage, role, said, {name: lines})


def speed_metric(kind: str) -> Any:
    from finetune_api.evaluators import Metric

    return Metric.model_validate({"name": kind, "type": kind})


def _said(measured: Measured) -> dict[str, Any]:
    return {"type": measured.type, "value": measured.value, **measured.figures, **measured.detail}


def _training() -> list[Progress]:
    drawn, lines = random.Random(0), []
    for step in range(10, 1010, 10):
        loss = 0.25 + 2.5 * math.exp(-step / 180) + drawn.gauss(0, 0.05)
        rate = 1e-4 * min(1.0, step / 100) * (0.5 + 0.5 * math.cos(math.pi * step / 1000))
        lines.append(
            Progress(
                step=step,
                loss=loss,
                learning_rate=rate,
                tokens_per_second=25_000 + drawn.gauss(0, 400),
                memory_bytes=46_000_000_000,
            )
        )
        if step % 200 == 0:
            lines.append(Progress(step=step, eval_loss=loss + 0.1))
    return lines


def _quantization(name: str) -> dict[str, Any]:
    def tried(
        algo: str, block: int, size: float, value: float, low: float, high: float, verdict: str
    ) -> dict[str, Any]:
        margin = {"value": value - 0.873, "low": low, "high": high}
        figures = {"bytes": size, "values": {name: value}, "margins": {name: margin}, "verdict": verdict}
        told = {"name": f"{algo}-{block}", "algorithm": algo, "blockSize": block, "met": value >= 0.873}
        return {**told, **figures}

    tries = [
        tried("default", 128, 2.4e9, 0.345, -0.61, -0.44, f"{name} misses its goal by 52.8 points"),
        tried("default", 32, 2.6e9, 0.885, -0.04, 0.07, f"{name} meets its goal by 1.2 points, which may be luck"),
        tried("k_quant", 32, 2.7e9, 0.958, 0.03, 0.12, "meets the goals"),
    ]
    return {
        "source": {name: 0.97},
        "types": {name: "accuracy"},
        "rows": {name: ROWS},
        "confidence": 1 - 0.05 / 6,
        "settings": 6,
        "chosen": "k_quant-32",
        "sure": True,
        "tries": tries,
    }
