"""Where a training's figures go beside its log: TensorBoard's event files, MLflow, Weights & Biases."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from finetune_api.problems import problem
from finetune_api.stage import Reason, StageDocument
from finetune_api.training import TrainingArgs
from finetune_trainer.errors import bad_input
from finetune_trainer.report import Reporter
from finetune_trainer.result import one_line

# Tracker → the module that it needs.
MODULES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_KEY_TAG = "finetune.key"
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Entry:
    """Figures after a step, and when they were found out, in seconds since 1970."""

    step: int
    at: float
    figures: dict[str, float]


class Tracker(Protocol):
    """One place that figures go to. `remembers` says that an earlier attempt's figures are there already."""

    remembers: bool

    def log(self, entry: Entry) -> None:
        """Takes an entry."""

    def close(self) -> None:
        """Ends the run; everything is written then."""


class TensorBoard:
    """Event files in a folder of the stage's output."""

    remembers = False

    def __init__(self, folder: Path) -> None:
        self._writer = import_module("tensorboardX").SummaryWriter(str(folder))

    def log(self, entry: Entry) -> None:
        """One scalar for each figure."""
        for name, value in entry.figures.items():
            self._writer.add_scalar(name, value, entry.step, walltime=entry.at)

    def close(self) -> None:
        """Flushes the file."""
        self._writer.close()


class MlFlow:
    """A run of MLflow; the stage's attempts share it, by a tag that holds the stage's key."""

    remembers = True

    def __init__(self, name: str, key: str, settings: Mapping[str, Any]) -> None:
        self._mlflow = import_module("mlflow")
        earlier = self._mlflow.search_runs(filter_string=f"tags.`{_KEY_TAG}` = '{key}'", output_format="list")
        if earlier:
            self._mlflow.start_run(run_id=earlier[0].info.run_id)
        else:
            self._mlflow.start_run(run_name=name, tags={_KEY_TAG: key})
            self._mlflow.log_params(dict(settings))

    def log(self, entry: Entry) -> None:
        """One metric for each figure."""
        self._mlflow.log_metrics(entry.figures, step=entry.step)

    def close(self) -> None:
        """Ends the run."""
        self._mlflow.end_run()


class WeightsAndBiases:
    """A run of Weights & Biases; the stage's attempts share it, by its id."""

    remembers = True

    def __init__(self, name: str, key: str, settings: Mapping[str, Any], scratch: Path) -> None:
        wandb = import_module("wandb")
        self._run = wandb.init(name=name, id=key[:32], resume="allow", config=dict(settings), dir=str(scratch))

    def log(self, entry: Entry) -> None:
        """All figures of a step."""
        self._run.log(entry.figures, step=entry.step)

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


class Trackers:
    """All trackers of a training. One that fails is logged and left out from then on: training is worth more."""

    def __init__(self, trackers: Mapping[str, Tracker], report: Reporter) -> None:
        self._trackers = dict(trackers)
        self._report = report
        self._history: list[Entry] = []

    def log(self, step: int, **figures: float) -> None:
        """Hands on figures after `step`; those that are no number are left out."""
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        entry = Entry(step, time.time(), finite)
        if self._trackers:
            self._history.append(entry)
        for name in list(self._trackers):
            self._try(name, lambda tracker: tracker.log(entry))

    def close(self) -> None:
        """Ends all runs."""
        for name in list(self._trackers):
            self._try(name, lambda tracker: tracker.close())

    def state(self) -> list[Any]:
        """All figures so far, for a checkpoint."""
        return [[entry.step, entry.at, dict(entry.figures)] for entry in self._history]

    def load(self, state: list[Any]) -> None:
        """What `state` gave, told again to the trackers that do not remember it."""
        self._history = [Entry(step, at, dict(figures)) for step, at, figures in state]
        for name in [name for name, tracker in self._trackers.items() if not tracker.remembers]:
            for entry in self._history:
                self._try(name, lambda tracker, entry=entry: tracker.log(entry))

    def _try(self, name: str, call: Callable[[Tracker], None]) -> None:
        tracker = self._trackers.get(name)
        if tracker is None:
            return
        try:
            call(tracker)
        except Exception as error:  # whatever a tracker's library raises
            del self._trackers[name]
            said = one_line(f"{type(error).__name__}: {error}", 300)
            self._report.log(f"{name} takes no more figures; training goes on: {said}")


def require_trackers(args: TrainingArgs, path: str) -> None:
    """Raises StageFailure (Unsupported) where the image lacks a tracker's package; `path` is that of trainingArgs."""
    for name in args.report_to or ():
        if find_spec(MODULES[name]) is None:
            said = f"the package {MODULES[name]} is not in this image"
            remedy = "Leave it out, or use an image that has it (spec.systems[].image)."
            raise bad_input(Reason.UNSUPPORTED, problem(f"{path}.reportTo", name, said, remedy))


def open_trackers(
    args: TrainingArgs, document: StageDocument, output: Path, scratch: Path, report: Reporter
) -> Trackers:
    """The trackers that `args` name; one that cannot be reached is logged and left out."""
    name = args.run_name or f"{document.job.namespace}/{document.job.name}/{document.stage}"
    settings = {key: value for key, value in args.wire().items() if not isinstance(value, list | dict)}
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(output / "tensorboard"),
        "mlflow": lambda: MlFlow(name, document.key, settings),
        "wandb": lambda: WeightsAndBiases(name, document.key, settings, scratch),
    }
    opened: dict[str, Tracker] = {}
    for kind in dict.fromkeys(args.report_to or ()):
        try:
            opened[kind] = makers[kind]()
        except Exception as error:  # whatever a tracker's library raises
            said = one_line(f"{type(error).__name__}: {error}", 300)
            report.log(f"{kind} cannot be reached; training goes on without it: {said}")
    return Trackers(opened, report)
