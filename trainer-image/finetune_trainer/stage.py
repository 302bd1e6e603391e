"""One stage, from its inputs to its published output: fetch → pass → check → publish."""

from __future__ import annotations

import math
import shutil
import time
from importlib import import_module
from pathlib import Path
from typing import cast

from finetune_api.passes import ADAPTER_PASSES
from finetune_api.stage import Manifest, ManifestFile, StageResult, Verified
from finetune_trainer.context import Pass, StageContext
from finetune_trainer.fetch import fetch_base, fetch_base_adapter, fetch_input, fetch_rows, manifests_before
from finetune_trainer.kept_tokens import KeptTokens
from finetune_trainer.provenance import library_versions, now, usage
from finetune_trainer.training.world import Alone, World
from finetune_trainer.watching import watched
from finetune_trainer.workplace import Workplace

# Stages that answer without an artifact of their own: `answer(place) -> StageResult`.
ANSWERS = {"Prepare": "prepare", "Publish": "publish", "Probe": "probe"}
# Passes: `run(context)` and, where there is something to prove, `check(context)`.
PASSES = {
    "LoRA": "lora",
    "QLoRA": "lora",
    "DoRA": "lora",
    "MergeAdapterWeights": "merge",
    "ModelBuilder": "build",
    "Evaluate": "evaluate",
}


def run_stage(place: Workplace, world: World | None = None) -> StageResult:
    """Runs the stage of `place.document`, in `world` where several processes share it.

    Raises StageFailure where it cannot end well.
    """
    document, world = place.document, world or Alone()
    if not world.is_main:
        return _share(place, world)
    if document.type in ANSWERS:
        answer: StageResult = import_module(f"finetune_trainer.passes.{ANSWERS[document.type]}").answer(place)
        return answer
    earlier = place.store.read_manifest(document.key)
    done = earlier if earlier and not place.store.damage(earlier.manifest) else None
    world.any(done is not None)
    if done:
        place.report.log(f"{document.stage} was published by attempt {done.manifest.attempt}")
        if document.type in ADAPTER_PASSES:
            place.checkpoints.clear()
        return done.result()
    started, clock = now(), time.monotonic()
    context = _fetch(place, world)
    metrics = _compute(context)
    files = _send(place, context.output)
    manifest = _manifest(place, files, metrics, started, usage(time.monotonic() - clock, place.document.gpus))
    manifest = manifest.model_copy(update={"verified": _verified(context)})
    committed = place.store.commit(manifest, replace=earlier)
    place.report.log(f"{document.stage} is published: {committed.digest}")
    if document.type in ADAPTER_PASSES:
        place.checkpoints.clear()
    return committed.result()


def _share(place: Workplace, world: World) -> StageResult:
    """The part in a pass of a process that is not the main one: it computes, and neither checks nor publishes."""
    if not world.any(False):
        context = _fetch(place, world)
        _pass(context).run(context)
    return StageResult(key=place.document.key, ok=True)


def _fetch(place: Workplace, world: World) -> StageContext:
    """Everything that the pass works on; a node's processes share what is fetched, and write each to its own folder."""
    place.report.progress(activity="fetching inputs")
    own = place.scratch if world.is_main else place.scratch / f"rank-{world.rank}"
    (inputs, manifests), base = world.first_on_node(lambda: _inputs(place))
    return StageContext(
        document=place.document,
        inputs=inputs,
        base=base,
        output=_empty(own / "output"),
        scratch=_empty(own / "pass"),
        report=place.report,
        rows=lambda name: fetch_rows(place, name),
        upstream=manifests,
        before=manifests_before(place, manifests.values()) if world.is_main else (),
        world=world,
        checkpoints=place.checkpoints,
        tokens=KeptTokens(place.store.tokens(), place.document, place.scratch / "kept-tokens", place.report),
        termination=place.termination,
    )


def _inputs(place: Workplace) -> tuple[tuple[dict[str, Path], dict[str, Manifest]], Path | None]:
    """The folders and the manifests of upstream outputs, by role, and the folder of the input model.

    Its adapter is the adapter of a stage that has none from upstream.
    """
    fetched = {role: fetch_input(place, role, wanted) for role, wanted in place.document.inputs.items()}
    folders = {role: folder for role, (folder, _) in fetched.items()}
    own = fetch_base_adapter(place)
    if own:
        folders["adapter"] = own
    return (folders, {role: manifest for role, (_, manifest) in fetched.items()}), fetch_base(place)


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
    watch = watched(place.report, "publishing")
    return place.store.upload(place.document.key, place.document.attempt, output, watch)


def _manifest(
    place: Workplace, files: list[ManifestFile], metrics: dict[str, float], started: str, used: dict[str, float]
) -> Manifest:
    document = place.document
    return Manifest(
        stage=document.stage,
        type=document.type,
        key=document.key,
        attempt=document.attempt,
        job=document.job,
        image=document.image,
        config=document.config,
        inputs=document.inputs,
        pins=document.pins,
        files=files,
        metrics=metrics,
        versions=library_versions(),
        usage=used,
        gpus=document.gpus,
        started_at=started,
        finished_at=now(),
    )


def _empty(folder: Path) -> Path:
    """`folder`, with nothing of an earlier container in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
