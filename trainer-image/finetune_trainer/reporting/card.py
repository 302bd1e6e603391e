"""Model cards (README.md): what a model is, what it was made from, and how good it was found to be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.passes import ADAPTER_PASSES
from finetune_api.stage import Manifest, StageDocument
from finetune_trainer.context import StageContext
from finetune_trainer.reporting import words

if TYPE_CHECKING:
    from finetune_trainer.reporting.evidence import Evidence

NAME = "README.md"
_HUB_ID = re.compile(r"[-.\w]+/[-.\w]+")


def stage_card(context: StageContext, title: str, figures: Mapping[str, float], extra: Sequence[str] = ()) -> str:
    """The card of one stage's model: base, data, parameters, figures so far, and lineage; `extra` lines stand above it.

    Evaluations come after a model is made: the card in the run's report has them.
    """
    document = context.document
    above = [*context.upstream.values(), *context.before]
    trained = next((item for item in above if item.type in ADAPTER_PASSES), None)
    made = [item for item in (trained, document) if item]
    base = document.input_model.model_path if document.input_model else ""
    lines = [
        *_front_matter(base),
        f"# {title}",
        "",
        f"Made by the stage `{_text(document.stage)}` ({document.type}) of the FinetuneJob "
        f"`{document.job.namespace}/{document.job.name}`, generation {document.job.generation}.",
        "",
        *_base(document, base),
        *_data(document),
        *(_figures(trained.stage, trained.metrics) if trained else []),
        *_figures(document.stage, figures),
        *(line for item in made for line in _json(f"Parameters of {item.stage} ({item.type})", item.config)),
        *_lineage(document, above),
        *extra,
        "How it was evaluated is in the `README.md` and `report.html` of the run's report.",
    ]
    return "\n".join(lines) + "\n"


def run_card(evidence: Evidence) -> str:
    """The card of a whole run, with what every model was found to be worth."""
    base = str(evidence.spec["inputModel"]["modelPath"])
    lines = [*_front_matter(base), f"# {_text(evidence.job.name)}", "", f"Base model: `{_text(base)}`", ""]
    if evidence.evaluations:
        lines += ["## Evaluation", "", "| model | metric | value | 95 % interval | n |", "|---|---|---|---|---|"]
        lines += [
            f"| {words.ROLE_NAMES[item.role]} | {_text(name)} | {words.value(said['type'], said['value'])} | "
            f"{words.interval(said['type'], said)} | {int(said['n'])} |"
            for item in evidence.evaluations
            for name, said in item.metrics.items()
        ]
        lines.append("")
    rows = {name: f"{pin.rows} rows, sha256 `{pin.digest}`" for name, pin in evidence.pins.data.items()}
    lines += _table("Data", rows)
    lines += _table("Stages", {item.manifest.stage: f"key `{item.manifest.key}`" for item in evidence.stages})
    lines += _json("Passes", {item["name"]: item for item in evidence.spec["passes"]})
    return "\n".join(lines) + "\n"


def _front_matter(base: str) -> list[str]:
    # A hub takes no card whose base model is not a model's id on a hub.
    named = [f"base_model: {json.dumps(base)}"] if _HUB_ID.fullmatch(base) else []
    return ["---", *named, "tags: [finetune-operator]", "---", ""]


def _base(document: StageDocument, base: str) -> list[str]:
    if not document.pins:
        return [f"Base model: `{_text(base)}`", ""] if base else []
    pin = document.pins.model
    revision = f", revision `{_text(pin.revision)}`" if pin.revision else ""
    return [f"Base model: `{_text(base)}` ({_text(pin.architecture)}){revision}, sha256 `{pin.digest}`", ""]


def _data(document: StageDocument) -> list[str]:
    pins = document.pins.data if document.pins else {}
    return _table("Data", {name: f"{pin.rows} rows, sha256 `{pin.digest}`" for name, pin in pins.items()})


def _figures(stage: str, figures: Mapping[str, float]) -> list[str]:
    return _table(f"Figures of {stage}", {name: f"{number:.6g}" for name, number in figures.items()})


def _lineage(document: StageDocument, above: list[Manifest]) -> list[str]:
    rows = {f"this, {document.stage}": f"key `{document.key}`"}
    rows |= {f"{item.stage} ({item.type})": f"key `{item.key}`" for item in above}
    return _table("Lineage", rows)


def _table(title: str, rows: Mapping[str, str]) -> list[str]:
    if not rows:
        return []
    return [
        f"## {title}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {_text(key)} | {value} |" for key, value in rows.items()),
        "",
    ]


def _json(title: str, content: Mapping[str, Any]) -> list[str]:
    if not content:
        return []
    body = json.dumps(content, indent=2, ensure_ascii=False)
    return [f"## {title}", "", *fenced("json", body)]


def fenced(language: str, body: str) -> list[str]:
    """`body` as a block of code: in a fence longer than any in it, so that none of it is read as Markdown."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", body)), default=0))
    return [f"{fence}{language}", body, fence, ""]


def _text(value: str | None) -> str:
    """A value in Markdown: on one line, no cell or code ended early."""
    return " ".join((value or "").split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
