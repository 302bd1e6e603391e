"""What a run's stages left behind, read back from the store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.problems import problem
from finetune_api.stage import JobRef, Manifest, Pins, Progress, Reason, StageInput
from finetune_trainer.errors import bad_input
from finetune_trainer.workplace import Workplace

TRAINING_LOG = "training_log.jsonl"
SUMMARY = "summary.json"
QUANTIZATION = "quantization.json"
# In this order models are shown: as the run makes them.
ROLES = ("base", "adapter", "model", "onnx")


@dataclass(frozen=True)
class Evaluation:
    """One model's evaluation: its stage, its summary, and each row metric's lines."""

    stage: str
    role: str
    metrics: dict[str, dict[str, Any]]
    lines: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class StageRecord:
    """A stage's manifest and its digest."""

    manifest: Manifest
    digest: str


@dataclass(frozen=True)
class Evidence:
    """All that a report is made of."""

    job: JobRef
    spec: dict[str, Any]
    pins: Pins
    stages: list[StageRecord]
    training: list[Progress] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    quantization: dict[str, Any] | None = None


def gather(place: Workplace, folder: Path) -> Evidence:
    """The evidence of the run that `place.document` publishes; `folder` is scratch space.

    Only small files are fetched, never a model's. Raises StageFailure (ArtifactCorrupt) where one is not the one
    that its manifest names.
    """
    document = place.document
    if document.pins is None or document.spec is None:
        raise ValueError("a publish document has pins and the spec")
    stages = [_record(place, wanted) for wanted in document.stages]
    training: list[Progress] = []
    quantization: dict[str, Any] | None = None
    evaluations: list[Evaluation] = []
    for record in stages:
        texts = _texts(place, record.manifest, folder / record.manifest.stage)
        if record.manifest.type == "Evaluate" and SUMMARY in texts:
            evaluations.append(_evaluation(record.manifest.stage, texts))
        if TRAINING_LOG in texts:
            training = [Progress.model_validate_json(line) for line in texts[TRAINING_LOG].splitlines()]
        if QUANTIZATION in texts:
            quantization = json.loads(texts[QUANTIZATION])
    evaluations.sort(key=lambda item: ROLES.index(item.role))
    return Evidence(document.job, document.spec, document.pins, stages, training, evaluations, quantization)


def _record(place: Workplace, wanted: StageInput) -> StageRecord:
    found = place.store.read_manifest(wanted.key)
    if found is None or found.digest != wanted.digest:
        message = "its manifest is gone" if found is None else f"its manifest is now {found.digest}"
        remedy = "Change spec.runId to run the job again with what is there now."
        path = f"status.stages[name={wanted.stage}].digest"
        raise bad_input(Reason.ARTIFACT_CORRUPT, problem(path, wanted.digest, message, remedy))
    # The manifest may be that of another job's stage of the same key: here it has this run's name.
    return StageRecord(found.manifest.model_copy(update={"stage": wanted.stage}), found.digest)


def _texts(place: Workplace, manifest: Manifest, folder: Path) -> dict[str, str]:
    """The stage's files that reports are made of, by name."""
    evaluated = manifest.type == "Evaluate"
    wanted = [
        file
        for file in manifest.files
        if file.path in (TRAINING_LOG, QUANTIZATION) or (evaluated and file.path.endswith((".json", ".jsonl")))
    ]
    if not wanted:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    place.store.download(manifest.model_copy(update={"files": wanted}), folder)
    return {file.path: (folder / file.path).read_text(encoding="utf-8") for file in wanted}


def _evaluation(stage: str, texts: dict[str, str]) -> Evaluation:
    content = json.loads(texts[SUMMARY])
    lines = {
        name: [json.loads(line) for line in texts[f"{name}.jsonl"].split("\n") if line]
        for name in content["metrics"]
        if f"{name}.jsonl" in texts
    }
    return Evaluation(stage, content["model"], content["metrics"], lines)
