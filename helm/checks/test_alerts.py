"""The chart's alerts and panels, by Prometheus' own promtool: that they are valid, and when alerts fire.

Needs `promtool`, which Debian has in its package `prometheus`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.unit.helm.chart import CHART, EVERYTHING, NAME, NAMESPACE, one, render

OURS = f'namespace="{NAMESPACE}",job="{NAME}-metrics"'
Series = list[dict[str, str]]


def series(text: str, values: str) -> dict[str, str]:
    return {"series": text, "values": values}


QUIET: Series = [series(f"finetune_queue_depth{{{OURS}}}", "0x600")]
# Alert → what it sees, and after how long it must fire; series are by the minute, in promtool's notation.
FIRES: dict[str, tuple[Series, str]] = {
    "FinetuneOperatorDown": ([series("up", "1x600")], "11m"),
    "FinetuneOperatorStuck": ([series(f"finetune_queue_depth{{{OURS}}}", "3x60")], "21m"),
    "FinetuneApiErrors": (
        [
            *QUIET,
            series(f'finetune_api_requests_total{{{OURS},verb="GET",code="200"}}', "0+80x60"),
            series(f'finetune_api_requests_total{{{OURS},verb="GET",code="503"}}', "0+20x60"),
        ],
        "30m",
    ),
    "FinetuneApiRefused": (
        [*QUIET, series(f'finetune_api_requests_total{{{OURS},verb="POST",code="403"}}', "0+1x60")],
        "30m",
    ),
    "FinetuneStagesFailing": (
        [
            *QUIET,
            series(f'finetune_stage_duration_seconds_count{{{OURS},type="LoRA",outcome="Failed"}}', "0+1x60"),
            series(f'finetune_stage_duration_seconds_count{{{OURS},type="LoRA",outcome="Succeeded"}}', "0x60"),
        ],
        "50m",
    ),
    "FinetuneNodesFailing": (
        [*QUIET, series(f'finetune_stage_attempts_total{{{OURS},reason="Hardware"}}', "0+1x60")],
        "50m",
    ),
    "FinetuneJobsWaiting": (
        [*QUIET, series('finetune_jobs{namespace="team-a",phase="Queued"}', "1x600")],
        "361m",
    ),
}
# A day like any other: each kind of series there, none of them bad.
CALM: Series = [
    series(f"finetune_queue_depth{{{OURS}}}", "2 0 5 0x600"),
    series(f'finetune_api_requests_total{{{OURS},verb="GET",code="200"}}', "0+100x600"),
    series(f'finetune_api_requests_total{{{OURS},verb="GET",code="503"}}', "0+1x600"),
    series(f'finetune_stage_duration_seconds_count{{{OURS},type="LoRA",outcome="Failed"}}', "0 1 1x600"),
    series(f'finetune_stage_duration_seconds_count{{{OURS},type="LoRA",outcome="Succeeded"}}', "0+1x600"),
    series(f'finetune_stage_attempts_total{{{OURS},reason="Hardware"}}', "0 1x600"),
    series('finetune_jobs{namespace="team-a",phase="Running"}', "4x600"),
]


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The PrometheusRule's groups as Prometheus reads them."""
    assert shutil.which("promtool"), "promtool is missing: apt-get install prometheus"
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(json.dumps(one(render(EVERYTHING), "PrometheusRule")["spec"]))
    return path


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules(rules: Path) -> None:
    assert f"{len(FIRES)} rules found" in promtool("check", "rules", str(rules))


def test_prometheus_can_read_every_panel(rules: Path) -> None:
    """The dashboard's expressions, as recording rules, with every namespace chosen."""
    panels = json.loads((CHART / "files/dashboard.json").read_text())["panels"]
    texts = [target["expr"].replace("$namespace", ".*") for panel in panels for target in panel["targets"]]
    recorded = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
    path = rules.with_name("panels.yaml")
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(texts)} rules found" in promtool("check", "rules", str(path))


def firing(rules: Path, given: Series, when: dict[str, str]) -> None:
    """Whether, with these series, exactly these alerts fire: alert → when, or "" for one that never does."""
    groups = json.loads(rules.read_text())["groups"]
    labels = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    tests: list[dict[str, Any]] = [
        {"eval_time": at or "360m", "alertname": alert, "exp_alerts": [_expected(labels[alert], given)] if at else []}
        for alert, at in when.items()
    ]
    body = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": given, "alert_rule_test": tests}],
    }
    path = rules.with_name("test.yaml")
    path.write_text(json.dumps(body))
    promtool("test", "rules", str(path))


def _expected(rule: dict[str, Any], given: Series) -> dict[str, Any]:
    """The alert with the labels that its series give it, and its annotations filled in."""
    own = {"FinetuneOperatorDown": {"namespace": NAMESPACE, "job": f"{NAME}-metrics"}}
    of_series = {
        "FinetuneApiRefused": {"verb": "POST"},
        "FinetuneStagesFailing": {"type": "LoRA"},
        "FinetuneNodesFailing": {"reason": "Hardware"},
        "FinetuneJobsWaiting": {"namespace": "team-a"},
    }
    labels = {**own, **of_series}.get(rule["alert"], {})
    annotations = dict(rule["annotations"])
    for name, value in labels.items():
        annotations = {key: text.replace(f"{{{{ $labels.{name} }}}}", value) for key, text in annotations.items()}
    return {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": annotations}


@pytest.mark.parametrize("alert", FIRES)
def test_it_fires(alert: str, rules: Path) -> None:
    given, at = FIRES[alert]
    firing(rules, given, {alert: at})


def test_none_fires_on_a_calm_day(rules: Path) -> None:
    firing(rules, CALM, dict.fromkeys(FIRES, ""))
