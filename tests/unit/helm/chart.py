"""The chart, rendered by Helm's own code."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

Body = dict[str, Any]

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm/finetune-operator"
RELEASE, NAMESPACE = "ft", "ml-platform"
NAME = f"{RELEASE}-finetune-operator"

# Ten times as fast, where PyYAML was built with libyaml.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

EVERYTHING: Body = {
    "namespaces": ["team-a", "team-b"],
    "image": {"registry": "mirror.example.com/ml", "digest": "sha256:" + "a" * 64},
    "imagePullSecrets": [{"name": "mirror"}],
    "trainer": {"image": {"tag": "2"}, "lightImage": {"repository": "light"}},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "nodeSelector": {"role": "system"},
    "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
    "podAnnotations": {"note": "1"},
    "podLabels": {"team": "platform"},
    "serviceAccount": {"name": "tuner", "annotations": {"owner": "platform"}},
    "priorityClass": {"name": "platform", "create": True},
    "networkPolicy": {
        "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [6443]},
        "metrics": {"from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
}
NOTHING: Body = {
    "replicas": 1,
    "serviceAccount": {"create": False, "name": "mine"},
    "podDisruptionBudget": {"enabled": False},
    "crds": {"install": False},
    "rbac": {"create": False, "aggregateTenantRoles": False},
    "admissionPolicy": {"enabled": False},
    "networkPolicy": {"enabled": False},
}
VALUES: dict[str, Body] = {"defaults": {}, "everything": EVERYTHING, "nothing": NOTHING}


@cache
def _rendered(values: str, release: str) -> dict[str, str]:
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(json.loads(values), name=release, namespace=NAMESPACE)
    return {name.removeprefix("finetune-operator/templates/"): text for name, text in rendered.items()}


def render_texts(values: Body | None = None, *, release: str = RELEASE) -> dict[str, str]:
    """Template's name, without the chart's → what it renders to."""
    return dict(_rendered(json.dumps(values or {}), release))


def render(values: Body | None = None, *, release: str = RELEASE) -> list[Body]:
    """Every object that the chart makes of `values`."""
    texts = render_texts(values, release=release)
    return [
        document
        for name, text in texts.items()
        if name.endswith(".yaml")
        for document in yaml.load_all(text, Loader=LOADER)
        if document
    ]


def one(objects: list[Body], kind: str, name: str = NAME) -> Body:
    """The object of that kind and name."""
    (found,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def of_kind(objects: list[Body], kind: str) -> list[Body]:
    """All objects of a kind."""
    return [item for item in objects if item["kind"] == kind]
