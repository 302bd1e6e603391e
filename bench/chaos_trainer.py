"""A trainer whose passes compute nothing, and whose results are real ones in the store.

Everything around the passes is the trainer's own: fetching and checking inputs, uploading, committing the manifest,
publishing. A pass waits for a moment, long enough to be killed in, and writes a small file. Prepare pins the input
model by its name, so that jobs with the same model share their results. A model whose name ends with `refused` is
refused.
"""

from __future__ import annotations

import random
import sys
import time
from types import ModuleType

from finetune_api import keys
from finetune_api.job import JobSpec
from finetune_api.stage import DataPin, ModelPin, Pins, Prepared, Reason, StageResult
from finetune_trainer import child, stage
from finetune_trainer.context import PassOutput, StageContext
from finetune_trainer.errors import StageFailure
from finetune_trainer.workplace import Workplace

SECONDS = (0.1, 0.8)


def prepare(place: Workplace) -> StageResult:
    """Pins and keys as prepare gives them, and which results the store has."""
    document = place.document
    spec = JobSpec.model_validate(document.spec)
    if spec.input_model.model_path.endswith("refused"):
        raise StageFailure(Reason.MODEL_INVALID, "this model is refused")
    pin = keys.digest([spec.input_model.model_path])
    pins = document.pins or Pins(
        model=ModelPin(digest=pin), data={config.name: DataPin(digest=pin) for config in document.data}
    )
    stages = keys.stage_keys(document.job.namespace, spec, pins)
    there = {name: place.store.whole(key) for name, key in stages.items()}
    done = {name: committed.digest for name, committed in there.items() if committed}
    prepared = Prepared(pins=pins, keys=keys.combined(stages), done=done)
    return StageResult(key=document.key, ok=True, attempt=document.attempt, prepared=prepared)


def run(context: StageContext) -> PassOutput:
    """Wait, and write a file that differs from attempt to attempt."""
    time.sleep(random.uniform(*SECONDS))
    (context.output / "output.txt").write_text(f"{context.document.key} by {context.document.attempt}\n")
    return PassOutput({"inputs": float(len(context.inputs))})


def _module(name: str, **members: object) -> str:
    """Give the trainer a pass module of this name."""
    module = ModuleType(f"finetune_trainer.passes.{name}")
    module.__dict__.update(members)
    sys.modules[module.__name__] = module
    return name


def main() -> int:
    """Run the stage that the environment describes."""
    stage.ANSWERS["Prepare"] = _module("chaos_prepare", answer=prepare)
    stage.PASSES.update(dict.fromkeys(stage.PASSES, _module("chaos_pass", run=run)))
    # There are no models and no rows.
    stage.fetch_base = lambda _: None
    return child.main()


if __name__ == "__main__":
    sys.exit(main())
