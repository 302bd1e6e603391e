"""Computes what a report says again from published files alone, with nothing of the product.

    python recompute.py REPORT [--status JOB.json] [--onnx DIR]

REPORT is the downloaded artifact `report`. Its accuracies and perplexities are computed anew from predictions/, with
their intervals, and compared with what report.html shows; with --status (`kubectl get ftj JOB -o json`) with that as
well; with --onnx, the downloaded artifact `onnx`, its model is asked every prompt again, by onnxruntime-genai. Exits
with 1 and says where figures differ.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import unicodedata
from collections import Counter
from html import unescape
from pathlib import Path
from statistics import NormalDist
from typing import Any

_TABLE = re.compile(r'<table data-metric="([^"]*)">(.*?)</table>', re.DOTALL)
_ROW = re.compile(r'<tr data-stage="([^"]*)">.*?data-value="([^"]*)"', re.DOTALL)
Figures = dict[tuple[str, str], dict[str, float]]


def shown(folder: Path) -> dict[tuple[str, str], float]:
    """(stage, metric) → the figure that the page shows."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    return {
        (unescape(stage), unescape(metric)): float(value)
        for metric, table in _TABLE.findall(page)
        for stage, value in _ROW.findall(table)
    }


def recomputed(folder: Path) -> Figures:
    """(stage, metric) → its figures, of every metric that has rows beside the report."""
    return {
        (path.parent.name, path.stem): _accuracy(rows) if "answer" in rows[0] else _perplexity(rows)
        for path in sorted((folder / "predictions").glob("*/*.jsonl"))
        for rows in [_read(path)]
    }


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _accuracy(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The share of right answers, and the shares p at which it would be just 1.96 standard errors away: the roots of
    (share − p)² = z² p (1 − p) / n."""
    n = len(rows)
    share = sum(_plain(row["answer"]) == _plain(row["reference"]) for row in rows) / n
    square = NormalDist().inv_cdf(0.975) ** 2 / n
    a, b, c = 1 + square, -(2 * share + square), share**2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    commonest = max(Counter(_plain(row["reference"]) for row in rows).values())
    low, high = (-b - root) / (2 * a), (-b + root) / (2 * a)
    return {"": share, "n": n, "low": low, "high": high, "majority": commonest / n}


def _perplexity(rows: list[dict[str, Any]]) -> dict[str, float]:
    """exp of the mean loss per token; its interval is drawn, and cannot be drawn alike elsewhere."""
    tokens = sum(row["tokens"] for row in rows)
    return {"": math.exp(math.fsum(row["nll"] for row in rows) / tokens), "n": len(rows), "tokens": tokens}


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def differences(folder: Path) -> list[str]:
    """What the page shows that its rows do not say."""
    page = shown(folder)
    return [
        f"{stage} {metric}: shown {page.get((stage, metric))}, counted {said['']}"
        for (stage, metric), said in recomputed(folder).items()
        if not math.isclose(page.get((stage, metric), math.nan), said[""], rel_tol=1e-12)
    ]


def status_differences(folder: Path, stages: list[dict[str, Any]]) -> list[str]:
    """What `status.stages` says that the rows do not. Status may leave figures out, where metrics are many."""
    metrics = {stage["name"]: stage.get("metrics") or {} for stage in stages}
    found = []
    for (stage, metric), said in recomputed(folder).items():
        for figure, value in said.items():
            name = f"{metric}/{figure}".rstrip("/")
            told = metrics.get(stage, {}).get(name, None if not figure else value)
            if told is None or not math.isclose(told, value, rel_tol=1e-6, abs_tol=1e-9):
                found.append(f"{stage} {name}: status {told}, counted {value}")
    return found


def asked_again(folder: Path, onnx: Path, stage: str, tokens: int) -> list[str]:
    """The rows of `stage` to which the published ONNX model now gives another answer than predictions/ has.

    An answer is greedy and ends at the end tokens of genai_config.json, or after `tokens`, the metric's maxNewTokens.
    """
    import onnxruntime_genai as og

    model = og.Model(str(onnx))
    tokenizer = og.Tokenizer(model)
    tokenizer.update_options(add_special_tokens="false")
    found = []
    for path in sorted((folder / "predictions" / stage).glob("*.jsonl")):
        for row in _read(path):
            if "answer" not in row:
                continue
            ids = tokenizer.encode(row["prompt"]).tolist()
            parameters = og.GeneratorParams(model)
            parameters.set_search_options(do_sample=False, max_length=len(ids) + tokens)
            generator = og.Generator(model, parameters)
            generator.append_tokens(ids)
            while not generator.is_done():
                generator.generate_next_token()
            answer = _plain(tokenizer.decode(generator.get_sequence(0)[len(ids) :]))
            if answer != row["answer"]:
                found.append(f"{stage} {path.stem}: {row['prompt']!r} gave {row['answer']!r}, and now {answer!r}")
    return found


def main() -> int:
    """Print every figure, and what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--status", type=Path, metavar="JOB.json")
    parser.add_argument("--onnx", type=Path, metavar="DIR")
    parser.add_argument("--stage", default="evaluate-builder", help="the stage that measured --onnx (%(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="the metrics' maxNewTokens (%(default)s)")
    arguments = parser.parse_args()
    for (stage, metric), said in recomputed(arguments.report).items():
        print(f"{stage} {metric}: " + ", ".join(f"{name or 'value'} {value:.6g}" for name, value in said.items()))
    wrong = differences(arguments.report)
    if arguments.status:
        job = json.loads(arguments.status.read_text(encoding="utf-8"))
        wrong += status_differences(arguments.report, job["status"]["stages"])
    if arguments.onnx:
        wrong += asked_again(arguments.report, arguments.onnx, arguments.stage, arguments.tokens)
    print("\n".join(wrong) or "The published figures are what the published files say.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
