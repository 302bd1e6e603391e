"""Latency and throughput: requests of one shape, timed one after the other."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_api.evaluators import Metric
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import bad_input
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.model import Subject
from finetune_trainer.generation import Timing
from finetune_trainer.onnx_reference import BUILTIN_TEXTS
from finetune_trainer.report import Reporter


@dataclass(frozen=True)
class Shape:
    """A request's shape, and how often it is made."""

    batch: int
    prompt: int
    new: int
    warmup: int
    runs: int

    @classmethod
    def of(cls, metric: Metric) -> Shape:
        """As `metric` says; the defaults are those of its fields' descriptions."""
        warmup = 3 if metric.warmup_runs is None else metric.warmup_runs
        return cls(
            metric.batch_size or 1, metric.prompt_length or 64, metric.new_tokens or 32, warmup, metric.runs or 20
        )

    def content(self) -> dict[str, int]:
        """As the evaluation's summary holds it."""
        return {"batch_size": self.batch, "prompt_length": self.prompt, "new_tokens": self.new, "warmup": self.warmup}


def time_requests(subject: Subject, metric: Metric, texts: Sequence[Sequence[int]], report: Reporter) -> list[Timing]:
    """The timings of the requests that count; prompts are made of `texts` (ids), or of built-in ones.

    Raises StageFailure (Unsupported) where a request is longer than the model's context.
    """
    shape = Shape.of(metric)
    limit = subject.model.context_length
    if limit is not None and shape.prompt + shape.new > limit:
        path = f"spec.evaluators[*].metrics[name={metric.name}].promptLength"
        message = f"{shape.prompt} tokens and {shape.new} new ones do not fit the model's context of {limit}"
        raise bad_input(Reason.UNSUPPORTED, problem(path, shape.prompt, message, "Lower promptLength or newTokens."))
    source = [list(text) for text in texts if text] or [subject.tokenizer.encode(text).ids for text in BUILTIN_TEXTS]
    found = []
    for number in range(shape.warmup + shape.runs):
        prompts = [_filled(source, number * shape.batch + row, shape.prompt) for row in range(shape.batch)]
        timing = subject.model.time_request(prompts, shape.new)
        if number >= shape.warmup:
            found.append(timing)
            report.progress(activity=f"timing {metric.name}", step=len(found), total=shape.runs)
    return found


def _filled(source: Sequence[list[int]], first: int, length: int) -> list[int]:
    """`length` ids: the texts from `first` on, one after the other, cut."""
    ids: list[int] = []
    while len(ids) < length:
        ids += source[first % len(source)]
        first += 1
    return ids[:length]


def measure(metric: Metric, timings: Sequence[Timing]) -> Measured:
    """The metric's figures over its requests."""
    return _latency(metric, timings) if metric.type == "latency" else _throughput(metric, timings)


def _latency(metric: Metric, timings: Sequence[Timing]) -> Measured:
    """Milliseconds of a whole request, and until the first token apart."""
    whole, first = _quantiles([item.total for item in timings]), _quantiles([item.first for item in timings])
    figures = {
        "n": float(len(timings)),
        **{name: whole[name] for name in ("p50", "p90", "p99", "mean")},
        **{f"first_token_{name}": first[name] for name in ("p50", "p90", "p99")},
    }
    words = (
        f"p50 {whole['p50']:.1f} ms, p90 {whole['p90']:.1f}, p99 {whole['p99']:.1f}; first token p50 "
        f"{first['p50']:.1f} ms, over {len(timings)} requests"
    )
    statistic = metric.statistic or "p50"
    return Measured("latency", whole[statistic], figures, {"statistic": statistic} | Shape.of(metric).content(), words)


def _throughput(metric: Metric, timings: Sequence[Timing]) -> Measured:
    """Tokens per second: of prompts until the first token, and of generated tokens after it; all requests together.

    The first token is made while the prompt is read, so it counts with neither.
    """
    shape = Shape.of(metric)
    prompt_seconds = sum(item.first for item in timings)
    seconds = sum(item.total - item.first for item in timings)
    generated = len(timings) * shape.batch * (shape.new - 1)
    value = generated / max(seconds, 1e-9)
    rates = [shape.batch * (shape.new - 1) / max(item.total - item.first, 1e-9) for item in timings]
    p10, p50, p90, p99 = np.quantile(rates, [0.1, 0.5, 0.9, 0.99])
    figures = {
        "n": float(len(timings)),
        "prompt": len(timings) * shape.batch * shape.prompt / max(prompt_seconds, 1e-9),
        "p10": float(p10),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
    }
    words = f"{value:.0f} generated and {figures['prompt']:.0f} prompt tokens per second over {len(timings)} requests"
    return Measured("throughput", value, figures, shape.content(), words)


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p90, p99 = (1000 * float(value) for value in np.quantile(seconds, [0.5, 0.9, 0.99]))
    return {"mean": 1000 * statistics.fmean(seconds), "p50": p50, "p90": p90, "p99": p99}
