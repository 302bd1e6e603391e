"""All that the chart renders, the operator creates and the samples hold, against the schemas of Kubernetes' releases.

Strictly: a field that a release does not know is an error, as the API server would warn of it and drop it. Run by
`make checks`, which installs `kubernetes-validate`: it carries the OpenAPI schemas of every release.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.unit.helm.chart import VALUES, Body, render
from tests.unit.helm.pods import stage_objects

ROOT = Path(__file__).parents[2]
# From the chart's kubeVersion to the newest that the schemas know.
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
# Resources of others' CRDs: Kubernetes has no schema of theirs.
FOREIGN = ("monitoring.coreos.com", "argoproj.io", "serving.kserve.io", "kustomize.config.k8s.io", "finetune.dev")
SAMPLES = [*(ROOT / "examples/serving").glob("*.yaml"), *(ROOT / "deploy").rglob("*.yaml")]


def problems(body: Body, version: str) -> list[str]:
    """What is wrong with an object in that release."""
    if body["apiVersion"].startswith(FOREIGN):
        return []
    try:
        kubernetes_validate.validate(body, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{body['kind']} {body['metadata']['name']}: {'.'.join(map(str, error.path))}: {error.message}"]
    return []


@functools.cache
def objects() -> list[Body]:
    """Everything, each object once."""
    rendered = [body for values in VALUES.values() for body in render(values)]
    samples = [
        body for path in SAMPLES for body in yaml.safe_load_all(path.read_text()) if "apiVersion" in (body or {})
    ]
    return [*rendered, *stage_objects(), *samples]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_release_knows_every_field(version: str) -> None:
    assert [said for body in objects() for said in problems(body, version)] == []


def test_enough_is_looked_at() -> None:
    kinds = {body["kind"] for body in objects() if not body["apiVersion"].startswith(FOREIGN)}
    assert {"CustomResourceDefinition", "Deployment", "Job", "Service", "ValidatingAdmissionPolicy"} <= kinds


@pytest.mark.parametrize(
    ("path", "value"),
    [("spec.template.spec.serviceAccout", "x"), ("spec.replicas", "two"), ("spec.selector", "app=x")],
)
def test_the_check_can_fail(path: str, value: Any) -> None:
    deployment = copy.deepcopy(next(body for body in objects() if body["kind"] == "Deployment"))
    *parents, last = path.split(".")
    functools.reduce(lambda body, name: body[name], parents, deployment)[last] = value
    assert problems(deployment, VERSIONS[-1])
