"""int4AlgoConfig auto: the smallest of some quantizations that loses no more than the evaluator's goals allow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.builder import ModelBuilderConfig
from finetune_api.evaluators import ROW_METRICS, Evaluator
from finetune_api.stage import ExitCode, Reason
from finetune_trainer.context import StageContext
from finetune_trainer.errors import StageFailure
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.goals import Judgement, judge, missed
from finetune_trainer.evaluation.measuring import measure
from finetune_trainer.evaluation.model import Subject, load_onnx
from finetune_trainer.evaluation.questions import RowReader
from finetune_trainer.onnx_check import check_onnx
from finetune_trainer.onnx_reference import Reference
from finetune_trainer.tokenizer import load_tokenizer

FILE = "quantization.json"
_MOST_FIGURES = 16  # the check's own figures need room beside them


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


# By size: larger blocks have fewer scales; k_quant searches for them; the last two hold some products in 8 bits.
CANDIDATES = (
    Candidate("default", 128),
    Candidate("default", 32),
    Candidate("k_quant", 32),
    Candidate("k_quant_last", 32),
    Candidate("k_quant_mixed", 32),
)


@dataclass(frozen=True)
class Try:
    """What became of a candidate on validation rows. `refused` says why it is no answer; empty for the chosen one."""

    candidate: Candidate
    size: int
    values: dict[str, float]
    refused: str = ""
    diverged: bool = False

    def content(self) -> dict[str, Any]:
        """As `quantization.json` holds it."""
        return {
            "name": self.candidate.name,
            "algorithm": self.candidate.algo,
            "blockSize": self.candidate.block,
            "bytes": self.size,
            "values": self.values,
            "refused": self.refused or None,
        }


def judged(evaluator: Evaluator) -> Evaluator:
    """The metrics of rows that say how much may be lost, or what must be reached; others are for the evaluation."""
    metrics = [
        metric
        for metric in evaluator.metrics
        if metric.type in ROW_METRICS and metric.goal and not metric.goal.type.endswith("min-improvement")
    ]
    return evaluator.model_copy(update={"metrics": metrics})


def choose(
    context: StageContext, source: Path, config: ModelBuilderConfig, build: Callable[[Path, ModelBuilderConfig], None]
) -> dict[str, float]:
    """Builds candidates until one meets the goals beside `source`, and leaves it in `context.output`.

    `build` writes a candidate to a folder. `context.scratch` has the check's reference. Returns the figures of every
    try. Raises StageFailure: GoalNotMet, or OnnxDiverged where no candidate came near its source.
    """
    evaluator = judged(Evaluator.model_validate(context.document.evaluator))
    reader = RowReader(context, evaluator, load_tokenizer(source), validation=True)
    wanted = _source_values(context, source, evaluator, reader)
    tries: list[Try] = []
    for number, candidate in enumerate(CANDIDATES[: config.max_tries or len(CANDIDATES)], start=1):
        context.report.progress(activity=f"trying {candidate.name}", step=number, total=len(CANDIDATES))
        folder = context.scratch / f"try-{number}"
        folder.mkdir()
        build(folder, candidate.of(config))
        tries.append(_tried(context, folder, candidate, config, evaluator, reader, wanted))
        context.report.log(f"{candidate.name}: {tries[-1].refused or 'meets the goals'}")
        if not tries[-1].refused:
            shutil.copytree(folder, context.output, dirs_exist_ok=True)
            _write(context.output, wanted, tries)
            return _figures(tries)
        shutil.rmtree(folder)
    raise _none(tries)


def _source_values(context: StageContext, source: Path, evaluator: Evaluator, reader: RowReader) -> dict[str, float]:
    """The source's own values on the validation rows."""
    from finetune_trainer.generation_hf import load_hf_generator  # noqa: PLC0415  (torch: `check` does without)

    context.report.progress(activity="measuring source model")
    model = load_hf_generator(source, context.load_kwargs, context.inputs.get("adapter"))
    subject = Subject("model", model, load_tokenizer(source), (source,))
    return {name: item.value for name, item in _measured(context, subject, evaluator, reader).items()}


def _measured(context: StageContext, subject: Subject, evaluator: Evaluator, reader: RowReader) -> dict[str, Measured]:
    return {metric.name: measure(subject, metric, reader, context, output=None) for metric in evaluator.metrics}


def _tried(
    context: StageContext,
    folder: Path,
    candidate: Candidate,
    config: ModelBuilderConfig,
    evaluator: Evaluator,
    reader: RowReader,
    wanted: Mapping[str, float],
) -> Try:
    size = sum(path.stat().st_size for path in folder.iterdir())
    diverged = ""
    try:
        check_onnx(folder, Reference.read(context.scratch), config, context.report.log)
    except StageFailure as failure:
        diverged = failure.message
    try:
        subject = Subject("onnx", load_onnx(folder), load_tokenizer(folder), (folder,))
        found = _measured(context, subject, evaluator, reader)
    except RuntimeError as error:
        return Try(candidate, size, {}, diverged or str(error)[:300], diverged=True)
    judgements: Mapping[str, Judgement] = judge(evaluator, found, wanted)
    reasons = [*([diverged] if diverged else []), *(str(item) for item in missed(judgements))]
    values = {name: item.value for name, item in found.items()}
    return Try(candidate, size, values, "; ".join(reasons), diverged=bool(diverged) and not missed(judgements))


def _figures(tries: list[Try]) -> dict[str, float]:
    said = {f"try/{item.candidate.name}/{name}": value for item in tries for name, value in item.values.items()}
    return {"tries": float(len(tries)), **dict(list(said.items())[-_MOST_FIGURES:])}


def _write(folder: Path, wanted: Mapping[str, float], tries: list[Try]) -> None:
    content = {"source": dict(wanted), "chosen": tries[-1].candidate.name, "tries": [item.content() for item in tries]}
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _none(tries: list[Try]) -> StageFailure:
    """The failure where no candidate would do, with the figures of each."""
    shown = [
        f"{item.candidate.name}: " + (", ".join(f"{key} {value:.4g}" for key, value in item.values.items()) or "no run")
        for item in tries
    ]
    reason = Reason.ONNX_DIVERGED if all(item.diverged for item in tries) else Reason.GOAL_NOT_MET
    message = (
        f"None of {len(tries)} quantizations will do ({'; '.join(shown)}). The last: {tries[-1].refused} "
        "Allow more degradation, raise maxTries, or use precision fp16 or fp32."
    )
    return StageFailure(reason, message, exit_code=ExitCode.RESULT_REFUSED)
