"""What was measured, as the page shows it: models side by side, confusion matrices, sample answers."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np

from finetune_trainer.evaluation.paired import accuracy_difference
from finetune_trainer.reporting import charts, words
from finetune_trainer.reporting.charts import Interval
from finetune_trainer.reporting.evidence import ROLES, Evaluation, Evidence

_SAMPLES = 10
_PROMPT_CHARACTERS = 400
_HEAT_STEPS = 10
_QUANTILES = ("p50", "p90", "p99")
_CHARTED = ("accuracy", "perplexity")


def cards(evidence: Evidence) -> list[dict[str, Any]]:
    """The headline: each metric of the last model, and of the first beside it."""
    if not evidence.evaluations:
        return []
    first, last = evidence.evaluations[0], evidence.evaluations[-1]
    found = []
    for name, said in last.metrics.items():
        before = first.metrics.get(name) if first is not last else None
        number, unit = words.parts(said["type"], said["value"])
        found.append(
            {
                "name": name,
                "number": number,
                "unit": unit,
                "interval": words.interval(said["type"], said),
                "before": words.value(before["type"], before["value"]) if before else "",
                "model": words.ROLE_NAMES[last.role],
                "goal": words.goal(said),
            }
        )
    return found


def metrics(evidence: Evidence) -> list[dict[str, Any]]:
    """Each metric with a row per model that it was measured on, and a chart where it has an interval."""
    names = dict.fromkeys(name for item in evidence.evaluations for name in item.metrics)
    return [
        _metric(place, name, [item for item in evidence.evaluations if name in item.metrics])
        for place, name in enumerate(names)
    ]


def _metric(place: int, name: str, measured: list[Evaluation]) -> dict[str, Any]:
    said = measured[0].metrics[name]
    kind = said["type"]
    rows = [_row(item, name, measured[0]) for item in measured]
    figure, counted = words.KINDS[kind]
    return {
        "name": name,
        "figure": said.get("statistic", figure),
        "counted": counted,
        "basis": _basis(said),
        "rows": rows,
        "chart": _chart(place, name, measured) if kind in _CHARTED else "",
        "extras": list(rows[0]["extras"]),
        "goals": [row for row in rows if row["goal"]],
        "changes": any(row["change"] for row in rows),
    }


def _basis(said: dict[str, Any]) -> str:
    """What a figure is to be seen beside: what guessing would reach, or the requests that were timed."""
    if said["type"] == "accuracy":
        return f"Always giving the commonest answer would be right in {words.value('accuracy', said['majority'])}."
    if "prompt_length" not in said:
        return ""
    prompts = "1 prompt" if said["batch_size"] == 1 else f"{said['batch_size']} prompts"
    return (
        f"Requests of {prompts} of {said['prompt_length']} tokens, with {said['new_tokens']} new tokens each, after "
        f"{said['warmup']} to warm up."
    )


def _chart(place: int, name: str, measured: list[Evaluation]) -> str:
    said = [item.metrics[name] for item in measured]
    found = [
        Interval(
            words.ROLE_NAMES[item.role],
            figures["value"],
            figures["low"],
            figures["high"],
            ROLES.index(item.role),
            words.value(figures["type"], figures["value"]),
            figures["goal"]["bound"] if figures.get("goal") else None,
        )
        for item, figures in zip(measured, said, strict=True)
    ]
    if said[0]["type"] == "accuracy":
        return charts.shares(f"metric-{place}", name, found, said[0]["majority"])
    return charts.perplexities(f"metric-{place}", name, found)


def _extras(said: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Further figures of a metric, by the head of their column; each with what is said below it in small."""
    match said["type"]:
        case "perplexity":
            return {"tokens": (f"{said['tokens']:,.0f}", "")}
        case "latency":
            own = said.get("statistic", "p50")
            return {name: (f"{said[name]:.1f} ms", _first(said, name)) for name in _QUANTILES if name != own}
        case "throughput":
            heads = {"p50": "p50", "p90": "p90", "p99": "p99", "prompt": "prompt tokens/s"}
            return {head: (f"{said[name]:,.0f}", "") for name, head in heads.items() if name in said}
    return {}


def _first(said: dict[str, Any], name: str) -> str:
    """Of a latency's statistic, what the first token alone took."""
    found = said.get(f"first_token_{name}")
    return "" if found is None else f"first token {found:.1f} ms"


def _row(evaluation: Evaluation, name: str, first: Evaluation) -> dict[str, Any]:
    said = evaluation.metrics[name]
    kind = said["type"]
    return {
        "model": words.ROLE_NAMES[evaluation.role],
        "stage": evaluation.stage,
        "exact": said["value"],
        "value": words.parts(kind, said["value"])[0] if kind == "throughput" else words.value(kind, said["value"]),
        "below": _first(said, said.get("statistic", "p50")) if kind == "latency" else words.interval(kind, said),
        "n": int(said["n"]),
        "extras": _extras(said),
        "goal": words.goal(said),
        "change": _change(evaluation, name, first),
    }


def _change(evaluation: Evaluation, name: str, first: Evaluation) -> dict[str, str]:
    """An accuracy beside the first model's, row by row; empty where they were not asked the same."""
    own, other = evaluation.lines.get(name, []), first.lines.get(name, [])
    if evaluation is first or evaluation.metrics[name]["type"] != "accuracy" or not own:
        return {}
    if [line["prompt"] for line in own] != [line["prompt"] for line in other]:
        return {}
    right, before = (np.array([line["correct"] for line in lines], float) for lines in (own, other))
    found = accuracy_difference(right, before)
    return {"value": words.points(found.value), "interval": f"{words.points(found.low)} to {words.points(found.high)}"}


def confusions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The matrices of a model's metrics that have few right answers."""
    found = []
    for name, said in evaluation.metrics.items():
        if "confusion" not in said:
            continue
        rows = [
            {
                "label": label,
                "cells": [{"count": count, "heat": _heat(count, sum(counts))} for count in counts],
                "share": words.value("accuracy", counts[place] / sum(counts)),
            }
            for place, (label, counts) in enumerate(zip(said["labels"], said["confusion"], strict=True))
        ]
        found.append(
            {
                "name": name,
                "model": words.ROLE_NAMES[evaluation.role],
                "columns": [*said["labels"], "other"],
                "rows": rows,
            }
        )
    return found


def _heat(count: int, total: int) -> int:
    return round(_HEAT_STEPS * count / total) if total else 0


def samples(evidence: Evidence) -> list[dict[str, Any]]:
    """Some rows of every accuracy metric as the first and the last model answered them, one of each right answer
    before a second of any: the first ones, not the best ones."""
    if not evidence.evaluations:
        return []
    first, last = evidence.evaluations[0], evidence.evaluations[-1]
    found = []
    for name, after in last.lines.items():
        if last.metrics[name]["type"] != "accuracy":
            continue
        before = first.lines.get(name) if first is not last else None
        rows = list(zip(before or [None] * len(after), after, strict=False))
        found.append(
            {
                "name": name,
                "models": [words.ROLE_NAMES[item.role] for item in ([first, last] if before else [last])],
                "rows": [
                    {
                        "prompt": new["prompt"][-_PROMPT_CHARACTERS:],
                        "reference": new["reference"],
                        "answers": [item for item in (old, new) if item],
                    }
                    for old, new in _one_of_each(rows)[:_SAMPLES]
                ],
            }
        )
    return found


def _one_of_each(rows: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    by_answer: dict[str, list[tuple[Any, Any]]] = {}
    for row in rows:
        by_answer.setdefault(row[1]["reference"], []).append(row)
    return [row for turn in zip_longest(*by_answer.values()) for row in turn if row is not None]
