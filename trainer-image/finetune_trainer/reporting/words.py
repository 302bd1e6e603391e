"""Figures as people read them."""

from __future__ import annotations

from typing import Any

ROLE_NAMES = {
    "base": "Input model",
    "adapter": "Adapter on its base",
    "model": "Merged model",
    "onnx": "ONNX model",
}


def value(kind: str, number: float | None) -> str:
    """A metric's figure in its unit; None, which stands for an infinite one, is ∞."""
    if number is None:
        return "∞"
    match kind:
        case "accuracy":
            return f"{100 * number:.1f} %"
        case "latency":
            return f"{number:.1f} ms"
        case "throughput":
            return f"{number:,.0f} tokens/s"
        case "size_on_disk":
            return size(number)
    return f"{number:.4g}"


def interval(kind: str, said: dict[str, Any]) -> str:
    """A metric's 95 % interval; empty where it has none."""
    if "low" not in said:
        return ""
    return f"{value(kind, said['low'])} to {value(kind, said['high'])}"


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


def goal(said: dict[str, Any]) -> str:
    """A metric's goal, and whether it was met; empty where it has none."""
    found = said.get("goal")
    if not found:
        return ""
    bound = value(said["type"], found["bound"])
    return f"{found['type']} {found['value']:g} ({bound}): {'met' if found['met'] else 'missed'}"
