"""Charts as SVG for a page: drawn by matplotlib, coloured by the page's own style sheet."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Colours that stand for the style sheet's, replaced once the chart is drawn.
_INK, _RULE, _PANEL = "#000000", "#0000b1", "#0000c1"
SERIES = ("#0000a1", "#0000a2", "#0000a3", "#0000a4")
_COLOURS = {_INK: "currentColor", _RULE: "var(--rule)", _PANEL: "var(--panel)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
_WIDTH = 4.8  # inches, all charts alike
_SMALL = 8.5
_FAR_APART = 5
_SMALLEST_PLAIN_POWER = -3
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.5,
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
    """A value with its interval, of the model in row `row` of a chart; None where it is infinite.

    `said` is the value in words, `goal` the bound that it is held to.
    """

    row: str
    value: float | None
    low: float | None
    high: float | None
    colour: int
    said: str
    goal: float | None = None


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
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(EngFormatter(places=None, sep="") if what == "tokens per second" else _plain)
        if len(lines) > 1:
            axes.legend(frameon=False)

    return _svg(name, f"{what} over training steps", (_WIDTH, 2.3), draw)


def in_powers(values: Sequence[float]) -> tuple[float, str]:
    """What to divide small values by, and how to say so: values up to 2e-4 are shown as 2 and "× 10⁻⁴"."""
    power = math.floor(math.log10(max(values))) if max(values, default=0) > 0 else 0
    if power > _SMALLEST_PLAIN_POWER:
        return 1.0, ""
    return 10.0**power, f" × 10{str(power).translate(_SUPERSCRIPTS)}"


def _plain(value: float, _: object) -> str:
    return f"{value:g}"


def shares(name: str, what: str, found: Sequence[Interval], majority: float) -> str:
    """Shares of right answers, a row each from the top; `majority` is what the commonest answer would reach."""

    def draw(axes: Axes) -> None:
        axes.axvline(majority, color=_INK, linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate(
            f"majority class {100 * majority:.0f} %",
            (majority, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="left" if majority < 0.2 else "right" if majority > 0.8 else "center",
            fontsize=_SMALL,
        )
        _rows(axes, found)
        axes.set_xlim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.set_xlabel("share of right answers; more is better")

    return _svg(name, f"{what}: shares of right answers, with 95 % intervals", _height(found), draw)


def perplexities(name: str, what: str, found: Sequence[Interval]) -> str:
    """Perplexities, a row each from the top, on a logarithmic scale where they are far apart."""

    def draw(axes: Axes) -> None:
        _rows(axes, found)
        ends = [end for item in found for end in (item.low, item.high, item.goal) if end is not None]
        if ends and max(ends) > _FAR_APART * min(ends):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.xaxis.set_major_formatter(FuncFormatter(_plain))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.margins(x=0.08)
        axes.set_xlabel("perplexity; less is better")

    return _svg(name, f"{what}: perplexities, with 95 % intervals", _height(found), draw)


def _height(found: Sequence[Interval]) -> tuple[float, float]:
    return _WIDTH, 0.8 + 0.46 * len(found)


def _rows(axes: Axes, found: Sequence[Interval]) -> None:
    for place, item in enumerate(found):
        if item.goal is not None:
            axes.plot([item.goal] * 2, [place - 0.3, place + 0.3], color=_INK, linewidth=1.4)
        if item.value is None or item.low is None or item.high is None:
            axes.annotate("∞", (0.99, place), xycoords=("axes fraction", "data"), ha="right", va="center")
            continue
        span = [[max(0.0, item.value - item.low)], [max(0.0, item.high - item.value)]]
        axes.errorbar(item.value, place, xerr=span, fmt="o", color=SERIES[item.colour], capsize=4, markersize=6)
        above = {"xytext": (0, 6), "textcoords": "offset points"}
        ground = {"facecolor": _PANEL, "edgecolor": "none", "pad": 0.8}  # hides what lies behind the figure
        axes.annotate(item.said, (item.value, place), ha="center", fontsize=_SMALL, bbox=ground, **above)
    axes.set_yticks(range(len(found)), [item.row for item in found])
    axes.set_ylim(len(found) - 0.5, -0.62)
    axes.grid(axis="y", visible=False)


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
