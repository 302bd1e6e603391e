"""Probe: asks the store whether a stage is published, for a result that was lost."""

from __future__ import annotations

from finetune_api.stage import ExitCode, Reason, StageResult
from finetune_trainer.errors import StageFailure
from finetune_trainer.workplace import Workplace


def answer(place: Workplace) -> StageResult:
    """The stage's result as its manifest gives it. Raises StageFailure (NotPublished) where it is not there."""
    found = place.store.whole(place.document.key)
    if found is None:
        message = f"{place.document.stage} is not published"
        raise StageFailure(Reason.NOT_PUBLISHED, message, exit_code=ExitCode.RESULT_REFUSED)
    return found.result()
