"""Evidence → what the page's template shows: words, tables and charts, nothing to be computed there."""

from __future__ import annotations

import json
from itertools import zip_longest
from typing import Any

from finetune_api.stage import Progress
from finetune_trainer.reporting import charts, words
from finetune_trainer.reporting.charts import Curve, Interval
from finetune_trainer.reporting.evidence import ROLES, Evaluation, Evidence, StageRecord

_SAMPLES = 10
_PROMPT_CHARACTERS = 400
_HEAT_STEPS = 10


def view(evidence: Evidence) -> dict[str, Any]:
    """All that the template names."""
    return {
        "job": evidence.job,
        "cards": _cards(evidence),
        "training": _training(evidence),
        "metrics": _metrics(evidence),
        "confusions": [found for item in evidence.evaluations for found in _confusions(item)],
        "samples": _samples(evidence),
        "quantization": _quantization(evidence),
        "usage": [_usage(record) for record in evidence.stages],
        "lineage": [_lineage(record) for record in evidence.stages],
        "pins": evidence.pins,
        "spec": json.dumps(evidence.spec, indent=2, ensure_ascii=False),
        "versions": _versions(evidence),
    }


def _cards(evidence: Evidence) -> list[dict[str, str]]:
    """The headline: each metric of the last model, and of the first beside it."""
    if not evidence.evaluations:
        return []
    first, last = evidence.evaluations[0], evidence.evaluations[-1]
    cards = []
    for name, said in last.metrics.items():
        before = first.metrics.get(name) if first is not last else None
        cards.append(
            {
                "name": name,
                "value": words.value(said["type"], said["value"]),
                "interval": words.interval(said["type"], said),
                "before": words.value(before["type"], before["value"]) if before else "",
                "model": words.ROLE_NAMES[last.role],
                "missed": "yes" if said.get("goal") and not said["goal"]["met"] else "",
            }
        )
    return cards


def _training(evidence: Evidence) -> dict[str, str]:
    """Charts of loss and learning rate; empty where nothing was trained."""
    loss, held, rate = (_curve(evidence.training, name) for name in ("loss", "eval_loss", "learning_rate"))
    if not loss:
        return {}
    lines = [Curve("training", loss, 0), *([Curve("held out", held, 1, marked=True)] if held else [])]
    return {
        "loss": charts.curves("loss", "loss in nats per token", lines),
        "rate": charts.curves("rate", "learning rate", [Curve("learning rate", rate, 2)]) if rate else "",
        "last": f"{loss[-1][1]:.4g}",
        "steps": str(loss[-1][0]),
    }


def _curve(lines: list[Progress], name: str) -> list[tuple[int, float]]:
    """(step, figure) of the lines that have both."""
    found = [(line.step, getattr(line, name)) for line in lines]
    return [(step, value) for step, value in found if step is not None and value is not None]


def _metrics(evidence: Evidence) -> list[dict[str, Any]]:
    """Each metric with a row per model that it was measured on, and a chart where it is a share."""
    names = dict.fromkeys(name for item in evidence.evaluations for name in item.metrics)
    return [_metric(name, [item for item in evidence.evaluations if name in item.metrics]) for name in names]


def _metric(name: str, measured: list[Evaluation]) -> dict[str, Any]:
    kind = measured[0].metrics[name]["type"]
    rows = [_row(item, item.metrics[name]) for item in measured]
    chart = ""
    if kind == "accuracy":
        found = [
            Interval(words.ROLE_NAMES[item.role], said["value"], said["low"], said["high"], ROLES.index(item.role))
            for item in measured
            for said in [item.metrics[name]]
        ]
        chart = charts.intervals(f"metric-{name}", name, found, measured[0].metrics[name]["majority"])
    return {
        "name": name,
        "type": kind,
        "rows": rows,
        "chart": chart,
        "extras": list(rows[0]["extras"]),
        "goals": any(row["goal"] for row in rows),
        "intervals": any(row["interval"] for row in rows),
    }


_EXTRAS = {
    "accuracy": {"majority": "commonest answer"},
    "perplexity": {"tokens": "tokens"},
    "latency": {"p90": "p90", "p99": "p99", "first_token_p50": "first token p50", "first_token_p99": "first token p99"},
    "throughput": {"prompt": "prompt tokens"},
    "size_on_disk": {},
}


def _row(evaluation: Evaluation, said: dict[str, Any]) -> dict[str, Any]:
    kind = said["type"]
    extras = {
        label: f"{said[key]:,.0f}" if key == "tokens" else words.value(kind, said[key])
        for key, label in _EXTRAS[kind].items()
    }
    return {
        "model": words.ROLE_NAMES[evaluation.role],
        "stage": evaluation.stage,
        "exact": said["value"],
        "value": words.value(kind, said["value"]),
        "interval": words.interval(kind, said),
        "n": int(said["n"]),
        "extras": extras,
        "goal": words.goal(said),
        "met": bool(said.get("goal", {}).get("met", True)),
    }


def _confusions(evaluation: Evaluation) -> list[dict[str, Any]]:
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
        caption = f"{name}: {words.ROLE_NAMES[evaluation.role]}"
        found.append({"caption": caption, "columns": [*said["labels"], "other"], "rows": rows})
    return found


def _heat(count: int, total: int) -> int:
    return round(_HEAT_STEPS * count / total) if total else 0


def _samples(evidence: Evidence) -> list[dict[str, Any]]:
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
        chosen = _one_of_each(rows)[:_SAMPLES]
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
                    for old, new in chosen
                ],
            }
        )
    return found


def _one_of_each(rows: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    by_answer: dict[str, list[tuple[Any, Any]]] = {}
    for row in rows:
        by_answer.setdefault(row[1]["reference"], []).append(row)
    return [row for turn in zip_longest(*by_answer.values()) for row in turn if row is not None]


def _quantization(evidence: Evidence) -> dict[str, Any] | None:
    found = evidence.quantization
    if found is None:
        return None
    tries = [{**item, "size": words.size(item["bytes"])} for item in found["tries"]]
    return {"chosen": found["chosen"], "source": found["source"], "tries": tries}


def _usage(record: StageRecord) -> dict[str, str]:
    manifest, used = record.manifest, record.manifest.usage
    speed = manifest.metrics.get("tokens_per_second")
    return {
        "stage": manifest.stage,
        "type": manifest.type,
        "seconds": words.seconds(used["seconds"]) if "seconds" in used else "",
        "memory": words.size(used["memory_bytes"]) if "memory_bytes" in used else "",
        "gpu": words.size(used["gpu_memory_bytes"]) if "gpu_memory_bytes" in used else "",
        "speed": f"{speed:,.0f} tokens/s" if speed else "",
        "output": words.size(sum(file.size for file in manifest.files)),
    }


def _lineage(record: StageRecord) -> dict[str, Any]:
    manifest = record.manifest
    return {
        "stage": manifest.stage,
        "type": manifest.type,
        "inputs": {role: item.stage for role, item in manifest.inputs.items()},
        "key": manifest.key,
        "digest": record.digest,
        "finished": manifest.finished_at,
    }


def _versions(evidence: Evidence) -> dict[str, str]:
    found: dict[str, str] = {}
    for record in evidence.stages:
        found |= record.manifest.versions
    return dict(sorted(found.items()))
