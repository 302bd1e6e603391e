"""A training's loss and speed, asked of the device only when they are reported."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finetune_trainer.report import Reporter
from finetune_trainer.training.plan import Step


class Meter:
    """Counts steps and tokens; `report` closes a window, the steps since the report before it.

    `loss` is the mean of the last closed window's losses, NaN before there is one; `tokens` those of all steps,
    padding left out.
    """

    def __init__(self, total_steps: int) -> None:
        self.loss = math.nan
        self.tokens = 0
        self._total_steps = total_steps
        self._losses: list[torch.Tensor] = []
        self._window_tokens = 0
        self._started = self._window_started = time.monotonic()

    def add(self, loss: torch.Tensor, tokens: int) -> None:
        """Counts one step: its loss, still on the device, and its tokens, over all ranks."""
        self.tokens += tokens
        self._window_tokens += tokens
        self._losses.append(loss)

    def report(self, step: Step, norm: torch.Tensor, rate: float, report: Reporter) -> None:
        """Closes the window with a line of progress. Waits for the device."""
        self.loss = torch.stack(self._losses).mean().item()
        now = time.monotonic()
        report.progress(
            step=step.number,
            total=self._total_steps,
            epoch=step.epoch,
            loss=self.loss,
            learning_rate=rate,
            grad_norm=norm.item(),
            tokens_per_second=self._window_tokens / max(now - self._window_started, 1e-9),
            eta_seconds=(now - self._started) / step.number * (self._total_steps - step.number),
        )
        self._losses.clear()
        self._window_tokens = 0
        self._window_started = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not the training's, such as an evaluation's."""
        since = time.monotonic()
        yield
        skipped = time.monotonic() - since
        self._started += skipped
        self._window_started += skipped

    def tokens_per_second(self) -> float:
        """Over all steps so far, pauses left out."""
        return self.tokens / max(time.monotonic() - self._started, 1e-9)
