"""Computes a report's accuracies again from the rows beside it, with nothing of the product: `python recompute.py DIR`.

DIR is a downloaded report. Exits with 1 and says where a figure of report.html is not what its rows say.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from html import unescape
from pathlib import Path

_TABLE = re.compile(r'<table data-metric="([^"]*)">(.*?)</table>', re.DOTALL)
_ROW = re.compile(r'<tr data-stage="([^"]*)">.*?data-value="([^"]*)"', re.DOTALL)


def shown(folder: Path) -> dict[tuple[str, str], float]:
    """(stage, metric) → the figure that the page shows."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    return {
        (unescape(stage), unescape(metric)): float(value)
        for metric, table in _TABLE.findall(page)
        for stage, value in _ROW.findall(table)
    }


def recomputed(folder: Path) -> dict[tuple[str, str], float]:
    """(stage, metric) → the share of rows whose answer is the reference, counted anew."""
    found = {}
    for path in sorted((folder / "predictions").glob("*/*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        if not all("answer" in row for row in rows):
            continue
        right = sum(_plain(row["answer"]) == _plain(row["reference"]) for row in rows)
        found[path.parent.name, path.stem] = right / len(rows)
    return found


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def differences(folder: Path) -> list[str]:
    """What the page shows that its rows do not say."""
    page = shown(folder)
    return [
        f"{stage} {metric}: shown {page.get((stage, metric))}, counted {value}"
        for (stage, metric), value in recomputed(folder).items()
        if page.get((stage, metric)) != value
    ]


if __name__ == "__main__":
    where = Path(sys.argv[1])
    for (stage, metric), value in recomputed(where).items():
        print(f"{stage} {metric}: {value:.4f}")
    wrong = differences(where)
    print("\n".join(wrong) or "The report's figures are what its rows say.")
    sys.exit(1 if wrong else 0)
