"""When a training is saved, and how: a copy is taken between two steps, and sent while training goes on."""

from __future__ import annotations

import pickle
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from finetune_api.training import TrainingArgs
from finetune_trainer.checkpoints import Checkpoints
from finetune_trainer.report import Reporter
from finetune_trainer.result import one_line
from finetune_trainer.training.plan import Step

_STATE = "state.pt"


class Saver:
    """Saves and finds a training's state. A store that fails is logged: the training goes on, and tries again."""

    def __init__(self, checkpoints: Checkpoints, args: TrainingArgs, scratch: Path, report: Reporter) -> None:
        self._checkpoints = checkpoints
        self._args = args
        self._folder = scratch / "checkpoint"
        self._report = report
        self._sending: threading.Thread | None = None
        self._overdue = False
        self._saved_at = time.monotonic()

    @property
    def enabled(self) -> bool:
        """Whether the arguments want checkpoints at all."""
        return self._args.save_strategy != "no"

    def due(self, step: Step) -> bool:
        """Whether to save after `step`. What falls due while another checkpoint is being sent waits for it."""
        if not self.enabled:
            return False
        by_time = time.monotonic() - self._saved_at >= 60 * self._args.save_minutes
        by_step = step.ends_epoch if self._args.save_strategy == "epoch" else not step.number % self._args.save_steps
        self._overdue |= by_time or by_step
        return self._overdue and not self._busy()

    def save(self, step: int, state: dict[str, Any], *, wait: bool = False) -> None:
        """Sends `state`, whose tensors nobody changes any more, as the checkpoint of `step`; with `wait`, now."""
        if not self.enabled:
            return
        self.finish()
        self._overdue, self._saved_at = False, time.monotonic()
        self._sending = threading.Thread(target=self._send, args=(step, state), name="checkpoint", daemon=True)
        self._sending.start()
        if wait:
            self.finish()

    def finish(self) -> None:
        """Waits until nothing is being sent."""
        if self._sending:
            self._sending.join()
            self._sending = None

    def load(self, restore: Callable[[dict[str, Any]], None]) -> int:
        """Has `restore` take the newest checkpoint that is whole and fits; returns its step, 0 where there is none.

        `restore` raises KeyError or ValueError, before it changes anything, where a state does not fit.
        """
        for found in self._checkpoints.newest_first():
            try:
                # weights_only: a checkpoint comes from a bucket, and a pickle would run code.
                restore(torch.load(found.folder / _STATE, map_location="cpu", weights_only=True))
            except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
                said = one_line(f"{type(error).__name__}: {error}", 300)
                self._report.log(f"the checkpoint of step {found.step} is left out: {said}")
                continue
            finally:
                shutil.rmtree(found.folder, ignore_errors=True)
            self._report.log(f"going on after step {found.step}, from the checkpoint of attempt {found.attempt}")
            return found.step
        return 0

    def _busy(self) -> bool:
        return self._sending is not None and self._sending.is_alive()

    def _send(self, step: int, state: dict[str, Any]) -> None:
        since = time.monotonic()
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            torch.save(state, self._folder / _STATE)
            size = self._checkpoints.save(step, self._folder, self._args.save_total_limit)
        except Exception as error:  # whatever failed here, training is worth more
            said = one_line(f"{type(error).__name__}: {error}", 300)
            self._report.log(f"step {step} could not be saved; training goes on: {said}")
        else:
            seconds = time.monotonic() - since
            self._report.log(f"step {step} is saved: {size / 2**20:.1f} MiB in {seconds:.1f} s")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def copied(value: Any) -> Any:
    """`value` with every tensor in it copied to the CPU; lists, tuples and dicts are walked."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value
