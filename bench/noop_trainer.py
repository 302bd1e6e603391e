"""A trainer that computes nothing: it answers every stage at once with a result of the right shape.

The benchmarks of the operator run it as the trainer image's entry point, so that what they measure is the operator.
"""

import os
import sys
from pathlib import Path

from finetune_api import keys
from finetune_api.job import JobSpec
from finetune_api.stage import DataPin, ModelPin, Pins, Prepared, StageDocument, StageResult


def answer(document: StageDocument) -> StageResult:
    """The result that the real trainer would give, with digests made up from the stage's key."""
    if document.type == "Prepare":
        spec = JobSpec.model_validate(document.spec)
        pin = keys.digest([document.job.uid])
        pins = Pins(model=ModelPin(digest=pin), data={item.name: DataPin(digest=pin) for item in spec.data_configs})
        stage_keys = keys.stage_keys(document.job.namespace, spec, pins)
        return StageResult(key=document.key, ok=True, prepared=Prepared(pins=pins, keys=keys.combined(stage_keys)))
    if document.type == "Publish":
        published = [item.model_copy(update={"attempt": document.attempt}) for item in document.artifacts]
        return StageResult(key=document.key, ok=True, published=published)
    digest = keys.digest([document.key])
    return StageResult(key=document.key, ok=True, digest=digest, attempt=document.attempt, bytes=1)


def main() -> int:
    """Answer the stage document in FINETUNE_STAGE."""
    document = StageDocument.model_validate_json(os.environ["FINETUNE_STAGE"])
    Path(os.environ["FINETUNE_RESULT_PATH"]).write_text(answer(document).model_dump_json(exclude_none=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
