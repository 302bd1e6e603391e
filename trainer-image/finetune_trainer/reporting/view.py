"""Evidence → what the page's template shows: words, tables and charts, nothing to be computed there."""

from __future__ import annotations

import json
from typing import Any

from finetune_api.stage import Progress
from finetune_trainer.reporting import charts, measured, words
from finetune_trainer.reporting.charts import Curve
from finetune_trainer.reporting.evidence import Evidence, StageRecord


def view(evidence: Evidence) -> dict[str, Any]:
    """All that the template names."""
    return {
        "job": evidence.job,
        "base": str(evidence.spec.get("inputModel", {}).get("modelPath", "")),
        "cards": measured.cards(evidence),
        "training": _training(evidence.training),
        "metrics": measured.metrics(evidence),
        "confusions": [found for item in evidence.evaluations for found in measured.confusions(item)],
        "samples": measured.samples(evidence),
        "quantization": _quantization(evidence),
        "usage": _usage(evidence),
        "lineage": [_lineage(record) for record in evidence.stages],
        "pins": evidence.pins,
        "spec": json.dumps(evidence.spec, indent=2, ensure_ascii=False),
        "versions": _versions(evidence),
    }


def _training(lines: list[Progress]) -> dict[str, Any]:
    """Charts of what a training went through; empty where nothing was trained."""
    loss, held = _curve(lines, "loss"), _curve(lines, "eval_loss")
    if not loss:
        return {}
    losses = [Curve("training", loss, 0), *([Curve("held out", held, 1, marked=True)] if held else [])]
    drawn = [charts.curves("loss", "loss in nats per token", losses)]
    scale, power = charts.in_powers([rate for _, rate in _curve(lines, "learning_rate")])
    for name, field, what, unit, colour in (
        ("rate", "learning_rate", f"learning rate{power}", scale, 2),
        ("speed", "tokens_per_second", "tokens per second", 1.0, 3),
        ("memory", "memory_bytes", "memory in GB", 1e9, 1),
    ):
        points = [(step, figure / unit) for step, figure in _curve(lines, field)]
        if len(points) > 1:
            drawn.append(charts.curves(name, what, [Curve(what, points, colour)]))
    return {"charts": drawn, "last": f"{loss[-1][1]:.4g}", "steps": loss[-1][0]}


def _curve(lines: list[Progress], name: str) -> list[tuple[int, float]]:
    """(step, figure) of the lines that have both."""
    found = [(line.step, getattr(line, name)) for line in lines]
    return [(step, value) for step, value in found if step is not None and value is not None]


def _quantization(evidence: Evidence) -> dict[str, Any] | None:
    """The settings that were tried, each with its figures and how sure it is that they meet their goals."""
    found = evidence.quantization
    if found is None:
        return None
    kinds = found["types"]
    tries = [
        {
            "name": item["name"],
            "size": words.size(item["bytes"]),
            "verdict": item["verdict"],
            "chosen": item["name"] == found["chosen"],
            "met": item.get("met", False),
            "cells": [
                _tried(kind, item["values"].get(name), item["margins"].get(name)) for name, kind in kinds.items()
            ],
        }
        for item in found["tries"]
    ]
    return {
        "chosen": found["chosen"],
        "sure": found["sure"],
        # A try of a version before had a 95 % interval, and no other was thought of.
        "confidence": f"{100 * found.get('confidence', 0.975):.1f} %",
        "settings": found.get("settings", 1),
        "rows": " and ".join(f"{count} of {name}" for name, count in found["rows"].items()),
        "heads": {name: "margin, points" if kind == "accuracy" else "margin" for name, kind in kinds.items()},
        "source": [words.value(kind, found["source"][name]) for name, kind in kinds.items()],
        "tries": tries,
    }


def _tried(kind: str, value: float | None, margin: dict[str, float | None] | None) -> dict[str, str]:
    """A candidate's figure, and by how much it meets its goal; both empty where it could not be run."""
    if margin is None:
        return {"value": "", "margin": ""}
    low, high = margin["low"], margin["high"]
    if low is None or high is None:
        return {"value": words.value(kind, value), "margin": ""}
    said = (words.points(low), words.points(high)) if kind == "accuracy" else (f"{low:+.4g}", f"{high:+.4g}")
    return {"value": words.value(kind, value), "margin": " to ".join(said)}


def _usage(evidence: Evidence) -> dict[str, Any]:
    """Time and memory of each stage; a column that no stage has anything for is left out."""
    rows = [_used(record) for record in evidence.stages]
    heads = [head for head in rows[0]["cells"] if any(row["cells"][head] for row in rows)] if rows else []
    return {"heads": heads, "rows": rows}


def _used(record: StageRecord) -> dict[str, Any]:
    manifest, used = record.manifest, record.manifest.usage
    speed = manifest.metrics.get("tokens_per_second")
    return {
        "stage": manifest.stage,
        "type": manifest.type,
        "cells": {
            "time": words.seconds(used["seconds"]) if "seconds" in used else "",
            "throughput": f"{speed:,.0f} tokens/s" if speed else "",
            "peak memory": words.size(used["memory_bytes"]) if "memory_bytes" in used else "",
            "peak GPU memory": words.size(used["gpu_memory_bytes"]) if "gpu_memory_bytes" in used else "",
            "output": words.size(sum(file.size for file in manifest.files)),
        },
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
