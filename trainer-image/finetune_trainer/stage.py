"""One stage, from its inputs to its published output: fetch → pass → check → publish."""

from __future__ import annotations

import math
import shutil
from importlib import import_module
from pathlib import Path
from typing import cast

from finetune_api.stage import Manifest, ManifestFile, StageResult, Verified
from finetune_trainer.context import Pass, StageContext
from finetune_trainer.fetch import fetch_base, fetch_input, fetch_rows
from finetune_trainer.provenance import library_versions, now
from finetune_trainer.workplace import Workplace

# Stages that answer without an artifact of their own: `answer(place) -> StageResult`.
ANSWERS = {"Prepare": "prepare", "Publish": "publish", "Probe": "probe"}
# Passes: `run(context)` and, where there is something to prove, `check(context)`.
PASSES = {
    "LoRA": "lora",
    "QLoRA": "lora",
    "MergeAdapterWeights": "merge",
    "ModelBuilder": "build",
    "Evaluate": "evaluate",
}
# Those that leave checkpoints while they run.
RESUMABLE = ("LoRA", "QLoRA")


def run_stage(place: Workplace) -> StageResult:
    """Runs the stage of `place.document`. Raises StageFailure where it cannot end well."""
    document = place.document
    if document.type in ANSWERS:
        answer: StageResult = import_module(f"finetune_trainer.passes.{ANSWERS[document.type]}").answer(place)
        return answer
    earlier = place.store.read_manifest(document.key)
    if earlier and not place.store.damage(earlier.manifest):
        place.report.log(f"{document.stage} was published by attempt {earlier.manifest.attempt}")
        if document.type in RESUMABLE:
            place.checkpoints.clear()
        return earlier.result()
    started = now()
    context = _fetch(place)
    metrics = _compute(context)
    files = _send(place, context.output)
    manifest = _manifest(place, files, metrics, started).model_copy(update={"verified": _verified(context)})
    committed = place.store.commit(manifest, replace=earlier)
    place.report.log(f"{document.stage} is published: {committed.digest}")
    if document.type in RESUMABLE:
        place.checkpoints.clear()
    return committed.result()


def _fetch(place: Workplace) -> StageContext:
    """Everything that the pass works on."""
    place.report.progress(activity="fetching inputs")
    inputs = {role: fetch_input(place, role, wanted) for role, wanted in place.document.inputs.items()}
    return StageContext(
        document=place.document,
        inputs=inputs,
        base=fetch_base(place),
        output=_empty(place.scratch / "output"),
        scratch=_empty(place.scratch / "pass"),
        report=place.report,
        rows=lambda name: fetch_rows(place, name),
        checkpoints=place.checkpoints,
        termination=place.termination,
    )


def _compute(context: StageContext) -> dict[str, float]:
    """The pass and, where it has one, its check; returns the figures of both."""
    module = _pass(context)
    metrics = dict(module.run(context).metrics)
    if hasattr(module, "check"):
        context.report.progress(activity="checking")
        metrics |= module.check(context)
    # JSON has no NaN; what has no value is no figure.
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _verified(context: StageContext) -> Verified | None:
    module = _pass(context)
    return module.verified(context) if hasattr(module, "verified") else None


def _pass(context: StageContext) -> Pass:
    return cast(Pass, import_module(f"finetune_trainer.passes.{PASSES[context.document.type]}"))


def _send(place: Workplace, output: Path) -> list[ManifestFile]:
    place.report.progress(activity="publishing")
    return place.store.upload(place.document.key, place.document.attempt, output)


def _manifest(place: Workplace, files: list[ManifestFile], metrics: dict[str, float], started: str) -> Manifest:
    document = place.document
    return Manifest(
        stage=document.stage,
        type=document.type,
        key=document.key,
        attempt=document.attempt,
        job=document.job,
        config=document.config,
        inputs=document.inputs,
        pins=document.pins,
        files=files,
        metrics=metrics,
        versions=library_versions(),
        started_at=started,
        finished_at=now(),
    )


def _empty(folder: Path) -> Path:
    """`folder`, with nothing of an earlier container in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
