"""Alerts and dashboard ask for metrics that the operator has, by labels that they have."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.stage import Reason
from finetune_api.status import Phase, StageState, StageStatus, Status
from finetune_operator.metrics import Metrics

from .chart import CHART, EVERYTHING, NAME, one, render

# What Prometheus adds by itself, and what a histogram's buckets are told apart by.
ADDED = {"namespace", "job", "le"}


def series() -> dict[str, set[str]]:
    """Name → labels of every series that an operator shows after a busy day."""
    metrics = Metrics(queue_depth=lambda: 1.0)
    metrics.watch_jobs(lambda: [("team", "Running")])
    metrics.request("GET", 200)
    metrics.status_writes.labels("written").inc()
    times = {"started_at": "2026-11-23T20:00:00Z", "finished_at": "2026-11-23T20:01:00Z"}
    running = StageStatus(name="lora", type="LoRA", state=StageState.RUNNING, key="k", attempts=1, **times)
    ended = running.model_copy(update={"state": StageState.SUCCEEDED, "attempts": 2})
    begun = running.model_copy(update={"job": "lora-1"})
    metrics.status_changed(Status(), Status(stages=[begun]), {"lora-1": "2026-11-23T20:00:00Z"})
    metrics.status_changed(Status(stages=[running]), Status(stages=[ended]))
    metrics.gpus_held("team", 2.0, 10.0)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def rules() -> list[dict[str, Any]]:
    (group,) = one(render(EVERYTHING), "PrometheusRule")["spec"]["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    text = one(render(EVERYTHING), "ConfigMap", f"{NAME}-dashboard")["data"]["finetune-operator.json"]
    assert json.loads(text) == json.loads((CHART / "files/dashboard.json").read_text())
    found: dict[str, Any] = json.loads(text)
    return found


def expressions() -> list[str]:
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return [*(rule["expr"] for rule in rules()), *panels]


def test_the_metrics_and_labels_are_real() -> None:
    known = series()
    for text in expressions():
        assert text.count("(") == text.count(")")
        asked = set(re.findall(r"finetune_\w+", text))
        assert asked
        assert asked <= known.keys()
        labels = {name for match in re.findall(r"\{([^}]*)\}", text) for name in re.findall(r"(\w+)=", match)}
        labels |= {name.strip() for match in re.findall(r"by \(([^)]*)\)", text) for name in match.split(",")}
        assert labels <= ADDED.union(*(known[name] for name in asked))


def test_every_metric_is_shown() -> None:
    shown = {
        name
        for panel in dashboard()["panels"]
        for target in panel["targets"]
        for name in re.findall(r"finetune_\w+", target["expr"])
    }
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in series() if not name.endswith("_created")}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown} == families


def test_the_words_in_matchers_are_the_apis() -> None:
    words = {*Phase, *StageState, *Reason}
    for text in expressions():
        for label, value in re.findall(r'(phase|outcome|reason)=~?"([^"]*)"', text):
            assert label
            assert set(value.split("|")) <= words


def test_alerts_are_about_this_release_and_say_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert {"FinetuneOperatorDown", "FinetuneOperatorStuck", "FinetuneStagesFailing"} <= set(names)
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description"}
        if "finetune_jobs" not in rule["expr"]:
            assert f'job="{NAME}-metrics"' in rule["expr"]


def test_the_panels_do_not_lie_on_each_other() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    boxes = [panel["gridPos"] for panel in panels]
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    for one_box, other in combinations(boxes, 2):
        apart_x = one_box["x"] + one_box["w"] <= other["x"] or other["x"] + other["w"] <= one_box["x"]
        apart_y = one_box["y"] + one_box["h"] <= other["y"] or other["y"] + other["h"] <= one_box["y"]
        assert apart_x or apart_y
