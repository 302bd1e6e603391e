"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.evaluators import HIGHER_IS_BETTER

ROLE_NAMES = {
    "base": "Input model",
    "adapter": "Adapter on its base",
    "model": "Merged model",
    "onnx": "ONNX model",
}
# What a metric's figure is called, and what it was counted over.
KINDS = {
    "accuracy": ("accuracy", "n"),
    "perplexity": ("perplexity", "n"),
    "latency": ("latency", "requests"),
    "throughput": ("generated tokens/s", "requests"),
    "size_on_disk": ("size on disk", "files"),
}


def parts(kind: str, number: float | None) -> tuple[str, str]:
    """A metric's figure and its unit, which may be empty; None, which stands for an infinite figure, is ∞."""
    if number is None:
        return "∞", ""
    match kind:
        case "accuracy":
            return f"{100 * number:.1f}", "%"
        case "latency":
            return f"{number:.1f}", "ms"
        case "throughput":
            return f"{number:,.0f}", "tokens/s"
        case "size_on_disk":
            found, unit = size(number).split(" ")
            return found, unit
    return _four_digits(number), ""


def _four_digits(number: float) -> str:
    """Four digits, zeros at the end too, so that figures below each other have their points below each other."""
    if number < 1000:
        return f"{number:#.4g}"
    return f"{number:,.0f}" if number < 1e9 else f"{number:.3e}"


def value(kind: str, number: float | None) -> str:
    """A metric's figure in its unit."""
    return " ".join(parts(kind, number)).rstrip()


def interval(kind: str, said: Mapping[str, Any]) -> str:
    """A metric's 95 % interval; empty where it has none."""
    if "low" not in said:
        return ""
    low, _ = parts(kind, said["low"])
    return f"{low} to {value(kind, said['high'])}"


def points(difference: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{100 * difference:+.1f}"


def size(number: float) -> str:
    """Bytes in the largest unit that leaves a whole."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} TB"


def seconds(number: float) -> str:
    """A duration."""
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def goal(said: Mapping[str, Any]) -> dict[str, str]:
    """A metric's goal: the bound that it sets, what set it, and whether it was met; empty where it has none."""
    found = said.get("goal")
    if not found:
        return {}
    kind = said["type"]
    side = "at least" if kind in HIGHER_IS_BETTER else "at most"
    return {
        "bound": f"{side} {value(kind, found['bound'])}",
        "rule": f"{found['type']} {_allowed(kind, found['type'], found['value'])}",
        "outcome": "met" if found["met"] else "missed",
    }


def _allowed(kind: str, rule: str, number: float) -> str:
    """A goal's value in its unit: a change of an accuracy is in points, for 10 % of 90 % would be 9 of them."""
    if rule.startswith("percent-"):
        return f"{number:g} %"
    return f"{100 * number:g} points" if kind == "accuracy" and rule != "threshold" else value(kind, number)
