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
from finetune_trainer.evaluation import bootstrap
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.model import Subject
from finetune_trainer.report import Reporter

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
    rows = np.array([(item.nll, item.tokens) for item in scores])
    low, high = bootstrap_interval(rows)
    words = f"{value:.4g} over {tokens} tokens of {len(scores)} rows (95 % interval {low:.4g} to {high:.4g})"
    figures = {"n": float(len(scores)), "low": low, "high": high, "tokens": float(tokens)}
    return Measured("perplexity", value, figures, words=words, rows=rows)


def bootstrap_interval(rows: bootstrap.Rows) -> tuple[float, float]:
    """The 95 % interval of the perplexity over `rows` of (loss in nats, tokens).

    Texts are drawn, since tokens of one text are not independent.
    """
    nll, tokens = rows.T
    low, high = bootstrap.interval(lambda drawn: nll[drawn].sum(-1) / tokens[drawn].sum(-1), len(rows))
    return _perplexity(low), _perplexity(high)


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
