"""A handful of rows as two evaluation stages answered them, side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from finetune_api import layout
from finetune_api.status import StageStatus
from finetune_cli.bucket import Bucket

Row = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """One prompt, the right answer, and what was answered before and after fine-tuning."""

    prompt: str
    reference: str
    before: str
    after: str


def answers(bucket: Bucket, root: str, before: StageStatus, after: StageStatus, metric: str) -> list[Answered]:
    """Every row of `metric` as both stages answered it, from the rows that they published below `root`."""
    first, second = (_rows(bucket, root, stage, metric) for stage in (before, after))
    return [
        Answered(old["prompt"], old["reference"], old["answer"], new["answer"])
        for old, new in zip(first, second, strict=True)
    ]


def handful(rows: list[Answered], count: int) -> list[Answered]:
    """`count` rows, one of each right answer before a second of any: the first ones, not the best ones."""
    by_answer: dict[str, list[Answered]] = {}
    for row in rows:
        by_answer.setdefault(row.reference, []).append(row)
    turns = zip_longest(*by_answer.values())
    return [row for turn in turns for row in turn if row is not None][:count]


def _rows(bucket: Bucket, root: str, stage: StageStatus, metric: str) -> list[Row]:
    folder = layout.attempt_path(stage.key or "", stage.attempt or "")
    text = bucket.read(layout.join(root, f"{folder}/{metric}.jsonl")).decode()
    return [json.loads(line) for line in text.splitlines()]
