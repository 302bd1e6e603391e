"""Perplexity: how well a model predicts texts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune_api.data import PreProcessDataConfig
from finetune_api.evaluators import Metric
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.context import Row
from finetune_trainer.data import Tokens, render, tokenize
from finetune_trainer.errors import bad_input
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.model import Subject
from finetune_trainer.report import Reporter

_RESAMPLES = 1000
_DRAWN_AT_ONCE = 1_000_000
_PROGRESS_LINES = 10


@dataclass(frozen=True)
class Score:
    """A text's summed −ln p over so many tokens, in nats."""

    nll: float
    tokens: int


def texts_of(rows: Sequence[Row], process: PreProcessDataConfig, metric: Metric, subject: Subject) -> list[Tokens]:
    """Every row as one text of at most maxSeqLen tokens, with the tokens marked that count.

    Raises StageFailure (NoSamples) where none count.
    """
    completion = process.completion_only_loss if metric.loss_on is None else metric.loss_on == "completion"
    whole = process.model_copy(update={"strategy": "line-by-line", "completion_only_loss": completion})
    rendered = render(rows, whole, name=metric.data_config or "", tokenizer=subject.tokenizer)
    texts = tokenize(rendered, subject.tokenizer, whole)
    limit = min(whole.max_seq_len, subject.model.context_length or whole.max_seq_len)
    kept = [text for text in (texts.row(index, limit) for index in range(len(texts))) if text.learned()]
    if not kept:
        path = f"spec.evaluators[*].metrics[name={metric.name}].dataConfig"
        remedy = "Raise the data config's maxSeqLen, or set lossOn to all."
        raise bad_input(Reason.NO_SAMPLES, problem(path, metric.data_config, "no token to measure in any row", remedy))
    return kept


def score(subject: Subject, metric: Metric, texts: Sequence[Tokens], report: Reporter) -> list[Score]:
    """Each text's loss over the tokens that count; a first token is never predicted."""
    found = []
    every = max(1, len(texts) // _PROGRESS_LINES)
    for done, text in enumerate(texts, start=1):
        told = subject.model.losses([int(token) for token in text.ids])
        losses = [loss for loss, counts in zip(told, text.learn[1:], strict=True) if counts]
        found.append(Score(math.fsum(losses), len(losses)))
        if done % every == 0 or done == len(texts):
            report.progress(activity=f"evaluating {metric.name}", step=done, total=len(texts))
    return found


def measure(scores: Sequence[Score]) -> Measured:
    """exp of the mean loss per token over all texts together, with its bootstrap interval over texts."""
    tokens = sum(item.tokens for item in scores)
    value = _perplexity(sum(item.nll for item in scores) / tokens)
    low, high = bootstrap_interval(scores)
    words = f"{value:.4g} over {tokens} tokens of {len(scores)} rows (95 % interval {low:.4g} to {high:.4g})"
    figures = {"n": float(len(scores)), "low": low, "high": high, "tokens": float(tokens)}
    return Measured("perplexity", value, figures, words=words)


def bootstrap_interval(scores: Sequence[Score], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the perplexity (Efron 1979, doi:10.1214/aos/1176344552).

    Whole texts are drawn, 1000 times as many as there are, since tokens of one text are not independent.
    """
    random = np.random.default_rng(seed)
    nll = np.array([item.nll for item in scores])
    tokens = np.array([item.tokens for item in scores])
    means: list[float] = []
    while len(means) < _RESAMPLES:
        drawn = random.integers(0, len(scores), (max(1, min(_RESAMPLES, _DRAWN_AT_ONCE // len(scores))), len(scores)))
        means.extend(nll[drawn].sum(-1) / tokens[drawn].sum(-1))
    low, high = np.quantile(means[:_RESAMPLES], [0.025, 0.975])
    return _perplexity(float(low)), _perplexity(float(high))


def _perplexity(mean: float) -> float:
    """exp, infinite where that is beyond floats or the mean is no number."""
    try:
        return math.exp(mean) if not math.isnan(mean) else math.inf
    except OverflowError:
        return math.inf


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """A line of JSON per row: its loss in nats and the tokens it is over."""
    lines = [json.dumps({"nll": item.nll, "tokens": item.tokens}) for item in scores]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
