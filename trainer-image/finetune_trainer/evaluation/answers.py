"""Accuracy: greedy answers to rows, compared with what the rows say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.evaluators import Metric
from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.model import Subject
from finetune_trainer.evaluation.questions import Question
from finetune_trainer.generation import Limits, answer_text, stop_check
from finetune_trainer.metrics import accuracy, normalised
from finetune_trainer.report import Reporter

DEFAULT_NEW_TOKENS = 32
MOST_CLASSES = 12
OTHER = "other"
_PROGRESS_LINES = 10


def answer(subject: Subject, metric: Metric, rows: Sequence[Question], report: Reporter) -> list[str]:
    """The model's answers, in the order of `rows`, stripped and in Unicode's NFC."""
    tokenizer = subject.tokenizer
    prompts = [row.ids(tokenizer) for row in rows]
    limits = Limits(metric.max_new_tokens or DEFAULT_NEW_TOKENS, tokenizer.end_ids, stop_check(tokenizer, metric.stop))
    answers = [""] * len(rows)
    every = max(1, len(rows) // _PROGRESS_LINES)
    for done, (index, ids) in enumerate(subject.model.generate(prompts, limits), start=1):
        answers[index] = normalised(answer_text(tokenizer, ids, metric.stop))
        if done % every == 0 or done == len(rows):
            report.progress(activity=f"evaluating {metric.name}", step=done, total=len(rows))
    return answers


def measure(answers: Sequence[str], references: Sequence[str]) -> Measured:
    """The share of right answers, with what is needed to judge it; per class where there are few."""
    found = accuracy(answers, references)
    words = (
        f"{found.value:.1%} of {found.n} (95 % interval {found.low:.1%} to {found.high:.1%}); "
        f"always the commonest answer: {found.majority:.1%}"
    )
    figures = {"n": float(found.n), "low": found.low, "high": found.high, "majority": found.majority}
    right = [normalised(given) == normalised(wanted) for given, wanted in zip(answers, references, strict=True)]
    rows = np.array([(float(item), 1.0) for item in right])
    return Measured("accuracy", found.value, figures, classes(answers, references), words, rows)


def classes(answers: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Per right answer how many of its rows were right, and a confusion matrix; empty where there are many.

    `confusion[i][j]` counts rows of class i that were answered with class j; the last column is any other answer.
    """
    wanted = [normalised(reference) for reference in references]
    labels = sorted(set(wanted))
    if not 1 < len(labels) <= min(MOST_CLASSES, len(wanted) // 2):
        return {}
    pairs = Counter(
        (right, given if given in labels else OTHER)
        for right, given in zip(wanted, (normalised(text) for text in answers), strict=True)
    )
    confusion = [[pairs[right, given] for given in (*labels, OTHER)] for right in labels]
    counted = zip(labels, confusion, strict=True)
    by_class = {label: {"n": sum(row), "correct": row[place]} for place, (label, row) in enumerate(counted)}
    return {"classes": by_class, "labels": labels, "confusion": confusion}


def write_answers(path: Path, rows: Sequence[Question], answers: Sequence[str]) -> None:
    """A line of JSON per row: prompt, reference, answer, correct."""
    with path.open("w", encoding="utf-8") as file:
        for row, text in zip(rows, answers, strict=True):
            correct = text == normalised(row.reference)
            line = {"prompt": row.prompt, "reference": row.reference, "answer": text, "correct": correct}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
