"""int4AlgoConfig auto: the smallest of some quantizations that surely loses no more than the evaluator's goals allow.

A candidate is compared with its source row by row, on validation rows. It is sure where the whole interval of that
comparison meets the goals, for a figure that meets them by luck would miss them on the test rows. Where none is sure,
the one that comes nearest to it among those whose figures meet the goals is taken, and called unsure.

Every candidate that is tried has a chance to seem sure by luck, and the first that does is taken. So each has its share
of the 5 % that all may have together (Bonferroni): whatever the candidates have in common, of jobs whose candidates all
miss their goals in truth, at most 5 % take one that they call sure. Holm's procedure would be no different, as it ends
with the first that passes. A fixed sequence would need no shares, but has to go from the largest candidate down and
stop at the first that is not sure: it would build nearly all of them in the usual case, in which the smallest will do.
Several goals of one candidate need no share of their own, as it has to meet all.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.builder import ModelBuilderConfig
from finetune_api.evaluators import ROW_METRICS, Evaluator
from finetune_api.stage import ExitCode, Reason
from finetune_trainer.context import StageContext
from finetune_trainer.errors import StageFailure
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.measuring import measure
from finetune_trainer.evaluation.model import Subject, load_onnx
from finetune_trainer.evaluation.paired import Difference, margin
from finetune_trainer.evaluation.questions import RowReader
from finetune_trainer.onnx_check import check_onnx
from finetune_trainer.onnx_reference import Reference
from finetune_trainer.tokenizer import load_tokenizer

FILE = "quantization.json"
# The chance that a job calls a candidate sure that misses its goals in truth.
ERROR = 0.05
_MOST_FIGURES = 15  # the check's own figures need room beside them


@dataclass(frozen=True)
class Candidate:
    """A setting of the builder."""

    algo: str
    block: int

    @property
    def name(self) -> str:
        """As figures and messages call it."""
        return f"{self.algo}-{self.block}"

    def of(self, config: ModelBuilderConfig) -> ModelBuilderConfig:
        """`config` with this setting in place of auto."""
        return config.model_copy(update={"int4_algo_config": self.algo, "int4_block_size": self.block})


# By size: larger blocks have fewer scales; k_quant searches for them; the last three hold some products in 8 bits.
CANDIDATES = (
    Candidate("default", 128),
    Candidate("default", 32),
    Candidate("k_quant", 32),
    Candidate("k_quant_last", 32),
    Candidate("k_quant_mixed", 32),
    Candidate("k_quant_mixed", 16),
)


@dataclass(frozen=True)
class Try:
    """What became of a candidate on validation rows.

    `values` and `margins`, by how much its goals are met, have an entry for each metric. `broken` says why the model
    itself is no answer, whatever its figures; `types` are the metrics'.
    """

    candidate: Candidate
    size: int
    values: dict[str, float]
    margins: dict[str, Difference]
    broken: str = ""
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether its figures meet the goals on the rows that were measured."""
        return not self.broken and all(item.value >= 0 for item in self.margins.values())

    @property
    def sureness(self) -> float:
        """How far the worst of its intervals is on the good side, in widths of that interval; 0 and above is sure."""
        if not self.met or any(math.isinf(item.low) for item in self.margins.values()):
            return -math.inf
        return min(item.low / max(item.high - item.low, 1e-9) for item in self.margins.values())

    @property
    def verdict(self) -> str:
        """Why it is taken or not."""
        missed = [
            f"{name} misses its goal by {self._said(name, -item.value)}"
            for name, item in self.margins.items()
            if item.value < 0
        ]
        if self.broken or missed:
            return "; ".join([*([self.broken] if self.broken else []), *missed])
        if self.sureness >= 0:
            return "meets the goals"
        return "; ".join(
            f"{name} meets its goal by {self._said(name, item.value)}, which may be luck"
            for name, item in self.margins.items()
            if item.low < 0
        )

    def _said(self, name: str, number: float) -> str:
        """A distance of the metric's figure: of an accuracy in percentage points."""
        return f"{100 * number:.1f} points" if self.types.get(name) == "accuracy" else f"{number:.4g}"

    def content(self) -> dict[str, Any]:
        """As `quantization.json` holds it."""
        return {
            "name": self.candidate.name,
            "algorithm": self.candidate.algo,
            "blockSize": self.candidate.block,
            "bytes": self.size,
            "values": {name: _finite(value) for name, value in self.values.items()},
            "margins": {
                name: {key: _finite(value) for key, value in asdict(item).items()}
                for name, item in self.margins.items()
            },
            "verdict": self.verdict,
            "met": self.met,
            "sure": self.sureness >= 0,
        }


def candidates(config: ModelBuilderConfig) -> tuple[Candidate, ...]:
    """Those that may be tried, in their order."""
    return CANDIDATES[: config.max_tries or len(CANDIDATES)]


def judged(evaluator: Evaluator) -> Evaluator:
    """The metrics of rows that say how much may be lost, or what must be reached; others are for the evaluation."""
    metrics = [
        metric
        for metric in evaluator.metrics
        if metric.type in ROW_METRICS and metric.goal and not metric.goal.type.endswith("min-improvement")
    ]
    return evaluator.model_copy(update={"metrics": metrics})


@dataclass(frozen=True)
class Chooser:
    """The validation rows, the metrics, and what the source reached on them."""

    context: StageContext
    config: ModelBuilderConfig
    evaluator: Evaluator
    reader: RowReader
    source: Mapping[str, Measured]

    @property
    def tail(self) -> float:
        """A candidate's share of the error, at the lower end of its intervals."""
        return ERROR / len(candidates(self.config))

    @classmethod
    def beside(cls, context: StageContext, source: Path, config: ModelBuilderConfig) -> Chooser:
        """A chooser that holds candidates to the model in `source`."""
        from finetune_trainer.generation_hf import load_hf_generator  # noqa: PLC0415  (torch: `check` does without)

        evaluator = judged(Evaluator.model_validate(context.document.evaluator))
        reader = RowReader(context, evaluator, load_tokenizer(source), validation=True)
        context.report.progress(activity="measuring source model")
        model = load_hf_generator(source, context.load_kwargs, context.inputs.get("adapter"))
        subject = Subject("model", model, load_tokenizer(source), (source,))
        return cls(context, config, evaluator, reader, _measured(context, subject, evaluator, reader))

    def tried(self, folder: Path, candidate: Candidate) -> Try:
        """The candidate in `folder`, checked and measured. `context.scratch` has the check's reference."""
        size = sum(path.stat().st_size for path in folder.iterdir())
        broken = ""
        try:
            check_onnx(folder, Reference.read(self.context.scratch), self.config, self.context.report.log)
        except StageFailure as failure:
            broken = failure.message
        try:
            subject = Subject("onnx", load_onnx(folder), load_tokenizer(folder), (folder,))
            found = _measured(self.context, subject, self.evaluator, self.reader)
        except RuntimeError as error:
            return Try(candidate, size, {}, {}, broken or str(error)[:300])
        margins = {
            metric.name: margin(metric, metric.goal, found[metric.name], self.source[metric.name], self.tail)
            for metric in self.evaluator.metrics
            if metric.goal
        }
        values = {name: item.value for name, item in found.items()}
        return Try(candidate, size, values, margins, broken, {name: item.type for name, item in found.items()})


def choose(
    context: StageContext, source: Path, config: ModelBuilderConfig, build: Callable[[Path, ModelBuilderConfig], None]
) -> dict[str, float]:
    """Builds candidates until one surely meets the goals beside `source`, and leaves the best in `context.output`.

    `build` writes a candidate to a folder. Returns the figures of every try. Raises StageFailure: GoalNotMet, or
    OnnxDiverged where no candidate came near its source.
    """
    chooser = Chooser.beside(context, source, config)
    tries: list[Try] = []
    best: tuple[Try, Path] | None = None
    for number, candidate in enumerate(candidates(config), start=1):
        context.report.progress(activity=f"trying {candidate.name}", step=number, total=len(candidates(config)))
        folder = context.scratch / f"try-{number}"
        folder.mkdir()
        build(folder, candidate.of(config))
        tries.append(chooser.tried(folder, candidate))
        context.report.log(f"{candidate.name}: {tries[-1].verdict}")
        # No more than two candidates are on disk at once: the best so far, and the one that is tried.
        if tries[-1].met and (best is None or tries[-1].sureness > best[0].sureness):
            worse, best = best, (tries[-1], folder)
        else:
            worse = (tries[-1], folder)
        if worse:
            shutil.rmtree(worse[1])
        if best and best[0].sureness >= 0:
            break
    if best is None:
        raise _none(tries)
    if best[0].sureness < 0:
        context.report.log(f"none is sure to meet the goals on other rows; {best[0].candidate.name} comes nearest")
    shutil.copytree(best[1], context.output, dirs_exist_ok=True)
    _write(context.output, chooser, tries, best[0])
    return _figures(tries, best[0])


def _measured(context: StageContext, subject: Subject, evaluator: Evaluator, reader: RowReader) -> dict[str, Measured]:
    return {metric.name: measure(subject, metric, reader, context, output=None) for metric in evaluator.metrics}


def _figures(tries: list[Try], best: Try) -> dict[str, float]:
    said = {f"try/{item.candidate.name}/{name}": value for item in tries for name, value in item.values.items()}
    return {"tries": float(len(tries)), "sure": float(best.sureness >= 0), **dict(list(said.items())[-_MOST_FIGURES:])}


def _write(folder: Path, chooser: Chooser, tries: list[Try], best: Try) -> None:
    content = {
        "source": {name: _finite(item.value) for name, item in chooser.source.items()},
        "types": {name: item.type for name, item in chooser.source.items()},
        "rows": {name: len(item.rows) for name, item in chooser.source.items()},
        "confidence": 1 - chooser.tail,
        "settings": len(candidates(chooser.config)),
        "chosen": best.candidate.name,
        "sure": best.sureness >= 0,
        "tries": [item.content() for item in tries],
    }
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _none(tries: list[Try]) -> StageFailure:
    """The failure where no candidate would do, with the figures of each."""
    shown = [
        f"{item.candidate.name}: " + (", ".join(f"{key} {value:.4g}" for key, value in item.values.items()) or "no run")
        for item in tries
    ]
    only_broken = all(item.broken and all(found.value >= 0 for found in item.margins.values()) for item in tries)
    last = tries[-1].verdict.removesuffix(".")
    message = (
        f"None of {len(tries)} quantizations will do ({'; '.join(shown)}). The last: {last}. "
        "Allow more degradation, raise maxTries, or use precision fp16 or fp32."
    )
    reason = Reason.ONNX_DIVERGED if only_broken else Reason.GOAL_NOT_MET
    return StageFailure(reason, message, exit_code=ExitCode.RESULT_REFUSED)
