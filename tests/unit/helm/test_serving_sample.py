"""The serving sample: restricted pods that run what the trainer's image has, with the names that kustomize makes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from finetune_trainer.__main__ import USAGE

from .chart import ROOT, Body
from .test_pod_security import violations

SAMPLE = ROOT / "examples/serving"
VERSION = yaml.safe_load((ROOT / "helm/finetune-operator/Chart.yaml").read_text())["appVersion"]


def pods() -> dict[str, Body]:
    """The pod of the Deployment, and that of KServe's predictor."""
    deployment, _ = yaml.safe_load_all((SAMPLE / "deployment.yaml").read_text())
    kserve = yaml.safe_load((SAMPLE / "kserve.yaml").read_text())
    return {"deployment": deployment["spec"]["template"]["spec"], "kserve": kserve["spec"]["predictor"]}


@pytest.mark.parametrize("name", pods())
def test_the_pods_are_restricted_and_pull_what_they_serve(name: str) -> None:
    pod = pods()[name]
    assert violations(pod) == []
    assert pod["automountServiceAccountToken"] is False
    (pull,), (server,) = pod["initContainers"], pod["containers"]
    assert pull["image"] == server["image"] == f"finetune-trainer-cpu:{VERSION}"
    assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in (pull, server))
    # The image's entry point is the trainer.
    assert "command" not in pull
    assert f"finetune_trainer {pull['args'][0]} " in USAGE
    assert pull["args"][2] == server["command"][2]
    names = set(dict(line.split("=", 1) for line in (SAMPLE / "model.env").read_text().split()))
    assert {"NAME", "MANIFEST", "DIGEST"} <= names


@pytest.mark.kubectl
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("resource", ["deployment.yaml", "kserve.yaml"])
def test_a_promoted_model_rolls_the_server(resource: str, tmp_path: Path) -> None:
    """Each change of model.env gives the ConfigMap another name, which the pods then have."""
    folder = tmp_path / "serving"
    shutil.copytree(SAMPLE, folder)
    text = (folder / "kustomization.yaml").read_text().replace("[deployment.yaml]", f"[{resource}]")
    (folder / "kustomization.yaml").write_text(text)
    seen = set()
    for digest in ("a" * 64, "b" * 64):
        (folder / "model.env").write_text(f"NAME=x\nMANIFEST=s3://b/stages/{digest}/manifest.json\nDIGEST={digest}\n")
        done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
        objects = list(yaml.safe_load_all(done.stdout))
        (made,) = [item["metadata"]["name"] for item in objects if "DIGEST" in item.get("data", {})]
        assert done.stdout.count(f"name: {made}\n") == 3, "the ConfigMap, and two containers that read it"
        seen.add(made)
    assert len(seen) == 2
