"""The sample repository: its job is valid, and its Applications fit the chart, the projects and the folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from finetune_api import API_VERSION, GROUP, KIND
from finetune_api.rules import check

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy/argocd"


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return found


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("tenants/*/*.yaml")), ids=lambda path: path.stem)
def test_the_jobs_are_valid(path: Path) -> None:
    body = yaml.safe_load(path.read_text())
    assert (body["apiVersion"], body["kind"]) == (API_VERSION, KIND)
    assert "namespace" not in body["metadata"], "the Application's destination decides"
    assert check(body["spec"])[1] == []


def test_the_operators_application_fits_the_chart() -> None:
    source = load("bootstrap/operator.yaml")["spec"]["source"]
    chart = ROOT / source["path"]
    with helm_python.Chart.load(chart) as loaded:
        loaded.validate_schema(source["helm"]["valuesObject"])
        assert source["targetRevision"] == f"v{loaded.version}"
    namespaces = {path.name for path in (DEPLOY / "tenants").iterdir()}
    assert set(source["helm"]["valuesObject"]["namespaces"]) == namespaces


def test_each_tenant_has_a_project_for_its_own_namespace() -> None:
    template = load("bootstrap/tenants.yaml")["spec"]["template"]["spec"]
    assert template["project"] == template["destination"]["namespace"] == "{{ .path.basename }}"
    for folder in (DEPLOY / "tenants").iterdir():
        project = load(f"bootstrap/project-{folder.name}.yaml")
        assert project["metadata"]["name"] == folder.name
        assert [item["namespace"] for item in project["spec"]["destinations"]] == [folder.name]
        assert project["spec"]["sourceRepos"] == [template["source"]["repoURL"]]
        assert project["spec"]["clusterResourceWhitelist"] == []
        allowed = {(item["group"], item["kind"]) for item in project["spec"]["namespaceResourceWhitelist"]}
        assert (GROUP, KIND) in allowed
        assert ("", "Secret") not in allowed
