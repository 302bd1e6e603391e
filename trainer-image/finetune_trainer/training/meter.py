"""A training's loss and speed, asked of the device only when they are reported."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from finetune_trainer.report import Reporter
from finetune_trainer.training.plan import Step
from finetune_trainer.training.trackers import Trackers


class Meter:
    """Counts steps and tokens; `report` closes a window, the steps since the report before it.

    `loss` is the mean of the last closed window's losses, NaN before there is one; `tokens` those of all steps,
    padding left out. Speeds are this attempt's, in tokens per second.
    """

    def __init__(self, total_steps: int, device: torch.device, report: Reporter, trackers: Trackers) -> None:
        self.loss = math.nan
        self.tokens = 0
        self._total_steps = total_steps
        self._device = device
        self._report = report
        self._trackers = trackers
        self._losses: list[torch.Tensor] = []
        self.start(0)

    def start(self, step: int) -> None:
        """The clock starts after `step`."""
        self._first_step, self._first_tokens, self._timed_tokens = step, self.tokens, 0
        self._started = self._window_started = time.monotonic()

    def add(self, loss: torch.Tensor, tokens: int) -> None:
        """Counts one step: its loss, still on the device, and the tokens of its batches."""
        self.tokens += tokens
        self._timed_tokens += tokens
        self._losses.append(loss)

    def report(self, step: Step, norm: torch.Tensor, rate: float) -> None:
        """Closes the window with a line of progress. Waits for the device."""
        self.close()
        now = time.monotonic()
        done = step.number - self._first_step
        figures = {
            "epoch": step.epoch,
            "loss": self.loss,
            "learning_rate": rate,
            "grad_norm": norm.item(),
            "tokens_per_second": self._timed_tokens / max(now - self._window_started, 1e-9),
            "tokens_seen": self.tokens,
            "memory_bytes": peak_memory(self._device),
        }
        self._trackers.log(step.number, **figures)
        self._report.progress(
            step=step.number,
            total=self._total_steps,
            **figures,
            eta_seconds=(now - self._started) / done * (self._total_steps - step.number),
        )
        self._timed_tokens = 0
        self._window_started = now

    def report_evaluation(self, step: Step, loss: float) -> None:
        """A line of progress with the evaluation's loss after `step`."""
        self._trackers.log(step.number, eval_loss=loss)
        self._report.progress(step=step.number, total=self._total_steps, epoch=step.epoch, eval_loss=loss)

    def close(self) -> None:
        """Closes the window without a word, where steps are in it. Waits for the device."""
        if self._losses:
            self.loss = torch.stack(self._losses).mean().item()
            self._losses.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not the training's, such as an evaluation's."""
        since = time.monotonic()
        yield
        skipped = time.monotonic() - since
        self._started += skipped
        self._window_started += skipped

    def tokens_per_second(self) -> float:
        """Over this attempt's steps, pauses left out."""
        return (self.tokens - self._first_tokens) / max(time.monotonic() - self._started, 1e-9)

    def state(self) -> dict[str, Any]:
        """Loss, tokens and the open window, for a checkpoint."""
        return {
            "loss": self.loss,
            "tokens": self.tokens,
            "losses": [loss.to("cpu", copy=True) for loss in self._losses],
            "history": self._trackers.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """What `state` gave."""
        self.loss, self.tokens = state["loss"], state["tokens"]
        self._losses = [loss.to(self._device) for loss in state["losses"]]
        self._trackers.load(state["history"])


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: of the GPU's memory by torch, or of the host's by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
