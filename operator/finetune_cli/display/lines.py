"""One plain line for each change of a stage."""

from __future__ import annotations

from collections.abc import Callable

from finetune_api.status import StageState, StageStatus, Status
from finetune_cli.words import remark


class Lines:
    """Writes `[ 12.3s] lora  Running  120/250 (48 %)  loss 0.41` whenever that would be another line than before."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write, self._clock = write, clock
        self._started = clock()
        self._shown: dict[str, tuple[StageState, str]] = {}

    def update(self, status: Status) -> None:
        """Write a line for each stage that changed."""
        width = max((len(stage.name) for stage in status.stages), default=0)
        for stage in status.stages:
            news = (stage.state, remark(stage))
            if news == self._shown.get(stage.name) or _to_come(stage):
                continue
            self._shown[stage.name] = news
            self._write(self._line(stage, width, news[1]))

    def close(self) -> None:
        """Nothing to put back."""

    def _line(self, stage: StageStatus, width: int, words: str) -> str:
        elapsed = self._clock() - self._started
        return f"[{elapsed:6.1f}s] {stage.name:<{width}}  {stage.state:<9}  {words}".rstrip()


def _to_come(stage: StageStatus) -> bool:
    """Whether there is nothing to say of the stage yet: it waits for its turn, or its pod for a moment."""
    return stage.state == StageState.PENDING and stage.reason in (None, "Starting")
