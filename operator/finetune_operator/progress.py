"""A pod's log → how far its stage is. Best effort, from untrusted lines."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from finetune_api.stage import Progress
from finetune_api.status import StageProgress
from finetune_operator.words import plain

MAX_LINE = 2048
TAIL_LINES = 20
# The kubelet cuts the end of the tail off, which is the newest line: so many bytes that none of ours is cut.
LIMIT_BYTES = TAIL_LINES * MAX_LINE
# Figures that status has no room for.
_FOR_THE_LOG = {"kind", "grad_norm", "tokens_seen", "memory_bytes"}


def last_progress(log: str) -> StageProgress | None:
    """The newest progress in the end of a log; None where it holds none.

    Lines of activity carry no loss; the newest figures before them are shown beside.
    """
    newest: dict[str, object] = {}
    for line in _progress_lines(log):
        for name, value in line.model_dump(exclude=_FOR_THE_LOG, exclude_none=True).items():
            newest.setdefault(name, value)
        if "loss" in newest and "step" in newest:
            break
    if not newest:
        return None
    newest["activity"] = plain(newest.get("activity", ""), 64)
    return StageProgress.model_validate(newest)


def _progress_lines(log: str) -> Iterator[Progress]:
    """The valid progress lines, the last first."""
    for line in reversed(log.splitlines()):
        if not line.startswith("{") or len(line) > MAX_LINE:
            continue
        try:
            yield Progress.model_validate_json(line)
        except ValidationError:
            continue
