"""What operators of the operator look up: every reason, metric and alert is explained, and nothing else is."""

from __future__ import annotations

import re

import pytest
from prometheus_client import generate_latest

from finetune_operator.metrics import Metrics
from finetune_operator.reasons import CONDITIONS, STAGES

from ...documented import ROOT

OPERATIONS = (ROOT / "docs/operations.md").read_text()
REASONS = (ROOT / "docs/reasons.md").read_text()
RULES = (ROOT / "helm/finetune-operator/templates/prometheusrule.yaml").read_text()


def rows(text: str) -> list[list[str]]:
    """The cells of every row of the text's tables."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def entries() -> dict[str, list[str]]:
    """Meaning and remedy by reason."""
    return {
        word: cells[1:]
        for cells in rows(REASONS)
        if len(cells) == 3
        for word in re.findall(r"`([A-Z][A-Za-z]+)`", cells[0])
    }


@pytest.mark.parametrize("reason", sorted(STAGES | CONDITIONS))
def test_every_reason_has_an_entry_that_says_what_to_do(reason: str) -> None:
    meaning, remedy = entries()[reason]
    assert len(meaning) > 10
    assert remedy.strip("| ")


def test_every_metric_is_listed_with_its_labels_and_no_other_is() -> None:
    metrics = Metrics(lambda: 0)
    metrics.watch_jobs(lambda: [("team", "Running")])
    metrics.gpus_held("team", 1, 1)
    there = set(re.findall(r"^# TYPE (\w+) ", generate_latest(metrics.registry).decode(), re.MULTILINE))
    there = {name for name in there if not name.endswith("_created")}
    listed = {cells[0].strip("` "): cells[1] for cells in rows(OPERATIONS) if cells[0].startswith("`finetune_")}
    assert listed.keys() == there
    names = {"stage_seconds": "finetune_stage_duration_seconds", "wait_seconds": "finetune_stage_wait_seconds"}
    names |= {"attempts": "finetune_stage_attempts_total", "status_writes": "finetune_status_writes_total"}
    for attribute, name in names.items():
        assert tuple(re.findall(r"`(\w+)`", listed[name])) == getattr(metrics, attribute)._labelnames


def test_every_alert_is_listed_with_its_severity() -> None:
    alerts = re.findall(r"- alert: (\w+).*?severity: (\w+)", RULES, re.DOTALL)
    assert alerts
    assert [
        tuple(cell.strip("` ") for cell in cells[:2]) for cells in rows(OPERATIONS) if "`Finetune" in cells[0]
    ] == alerts
