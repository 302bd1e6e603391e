"""Charts as SVG for a page: drawn by matplotlib, coloured by the page's own style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Colours that stand for the style sheet's, replaced once the chart is drawn.
_INK, _RULE = "#000000", "#0000b1"
SERIES = ("#0000a1", "#0000a2", "#0000a3", "#0000a4")
_COLOURS = {_INK: "currentColor", _RULE: "var(--rule)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": _RULE,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.linewidth": 2.0,
}


@dataclass(frozen=True)
class Curve:
    """Points (x, y) of one line of a chart; `colour` counts the style sheet's series from 0."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int
    marked: bool = False


@dataclass(frozen=True)
class Interval:
    """A value with its interval, of the model in row `row` of a chart."""

    row: str
    value: float
    low: float
    high: float
    colour: int


def curves(name: str, what: str, lines: Sequence[Curve]) -> str:
    """Lines over training steps; `what` is the vertical axis."""

    def draw(axes: Axes) -> None:
        for line in lines:
            steps, values = [x for x, _ in line.points], [y for _, y in line.points]
            marker = "o" if line.marked else None
            axes.plot(steps, values, color=SERIES[line.colour], label=line.label, marker=marker, markersize=4)
        axes.set_xlabel("step")
        axes.set_ylabel(what)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(lines) > 1:
            axes.legend(frameon=False)

    return _svg(name, f"{what} over training steps", (5.6, 2.6), draw)


def intervals(name: str, what: str, found: Sequence[Interval], majority: float | None) -> str:
    """Shares with their 95 % intervals, one row each from the top; `majority` is a line to compare with."""

    def draw(axes: Axes) -> None:
        for place, item in enumerate(found):
            left, right = max(0.0, item.value - item.low), max(0.0, item.high - item.value)
            axes.errorbar(
                item.value, place, xerr=[[left], [right]], fmt="o", color=SERIES[item.colour], capsize=4, markersize=7
            )
        if majority is not None:
            axes.axvline(majority, color=_INK, linewidth=1, linestyle=(0, (2, 3)))
        axes.set_yticks(range(len(found)), [item.row for item in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.grid(axis="y", visible=False)

    return _svg(name, f"{what}, with 95 % intervals", (5.6, 0.7 + 0.42 * len(found)), draw)


def _svg(name: str, title: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        stream = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    return for_page(stream.getvalue(), name, title)


def for_page(svg: str, name: str, title: str) -> str:
    """matplotlib's SVG as part of a page: no style of its own, names of its own, the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'style="([^"]*)"', lambda found: _attributes(found[1]), svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', svg)
    svg = svg.replace("xlink:href", "href").replace("<text ", '<text fill="currentColor" ')
    for colour, meaning in _COLOURS.items():
        svg = svg.replace(f'"{colour}"', f'"{meaning}"')
    return svg.strip()


def _attributes(style: str) -> str:
    """A style's declarations as presentation attributes, which a policy without inline styles lets pass."""
    parts = [part.split(":", 1) for part in style.split(";") if ":" in part]
    return " ".join(f'{key.strip()}="{value.strip()}"' for key, value in parts if key.strip() != "font-family")
