"""What a pass is given and what it gives back. Passes see folders and rows, never the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune_api.model import InputModel, LoadKwargs
from finetune_api.stage import Manifest, StageDocument, Verified
from finetune_trainer.report import Reporter
from finetune_trainer.termination import Termination
from finetune_trainer.training.world import Alone, World

if TYPE_CHECKING:
    from finetune_trainer.checkpoints import Checkpoints  # a pass is given these, and imports no store for their types
    from finetune_trainer.kept_tokens import KeptTokens

Row = dict[str, Any]


@dataclass(frozen=True)
class StageContext:
    """One attempt's surroundings.

    `inputs` holds, by role (adapter, model, onnx, reference), the local folder of each upstream output, its files
    checked against their sha256; the adapter may be the input model's own, held to its pin. `base` is the local folder
    of the job's input model where the document names one. `output` is an empty folder that the pass fills; all of it
    is published. `rows(name)` are the rows of a data config, checked to be the pinned ones, and read again by each
    iteration. `upstream` holds, by role, the inputs' manifests, and `before` those of the stages that these were made
    from, as far as they are still there. `world` are the processes that run the pass together; all have a context, and
    the main one's output is published. `checkpoints` are the stage's, where it has a store, and `tokens` those that
    were made of the job's rows before; `termination` says when to stop.
    """

    document: StageDocument
    inputs: dict[str, Path]
    base: Path | None
    output: Path
    scratch: Path
    report: Reporter
    rows: Callable[[str], Iterable[Row]]
    upstream: dict[str, Manifest] = field(default_factory=dict)
    before: tuple[Manifest, ...] = ()
    world: World = field(default_factory=Alone)
    checkpoints: Checkpoints | None = None
    tokens: KeptTokens | None = None
    termination: Termination = field(default_factory=Termination)

    @property
    def load_kwargs(self) -> LoadKwargs:
        """How the stage's models are loaded; the defaults where the document names no input model."""
        return self.document.input_model.load_kwargs if self.document.input_model else LoadKwargs()

    def input_model(self) -> tuple[Path, InputModel]:
        """The input model's folder, and what the document says of it; for stages whose document names one."""
        if self.base is None or self.document.input_model is None:
            raise ValueError(f"the document of {self.document.stage} names no input model")
        return self.base, self.document.input_model


@dataclass(frozen=True)
class PassOutput:
    """What a pass says about its output: figures for manifest and status, at most 24."""

    metrics: dict[str, float] = field(default_factory=dict)


class Pass(Protocol):
    """A pass module: `run` computes into `context.output`; `check`, where it has one, refuses bad output."""

    def run(self, context: StageContext) -> PassOutput:
        """Compute. Raises StageFailure where it cannot."""

    def check(self, context: StageContext) -> dict[str, float]:
        """Prove the output, and return further figures. Raises StageFailure where it is not good."""

    def verified(self, context: StageContext) -> Verified:
        """How `check` proved it; asked of passes that have it."""
