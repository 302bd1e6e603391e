"""A report's folder: the page, the model card, and the predictions that its figures are made of."""

from __future__ import annotations

import json
import os
from pathlib import Path

from finetune_trainer.reporting.evidence import Evidence, gather
from finetune_trainer.workplace import Workplace

PAGE = "report.html"
CARD = "README.md"


def write_report(place: Workplace, folder: Path) -> None:
    """Fills the empty `folder` with the report of the run that `place.document` publishes."""
    # matplotlib keeps a cache of fonts, and a pod's home is read-only.
    os.environ.setdefault("MPLCONFIGDIR", str(place.scratch / "matplotlib"))
    from finetune_trainer.reporting.card import run_card  # noqa: PLC0415
    from finetune_trainer.reporting.page import page  # noqa: PLC0415  (matplotlib, after its environment)

    evidence = gather(place, place.scratch / "evidence")
    (folder / PAGE).write_text(page(evidence), encoding="utf-8")
    (folder / CARD).write_text(run_card(evidence), encoding="utf-8")
    _write_predictions(folder, evidence)


def _write_predictions(folder: Path, evidence: Evidence) -> None:
    for evaluation in evidence.evaluations:
        for name, lines in evaluation.lines.items():
            path = folder / "predictions" / evaluation.stage / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            path.write_text(body, encoding="utf-8")
