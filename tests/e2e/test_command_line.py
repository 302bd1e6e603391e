"""What a user does with `finetune` on a job in a cluster: one job, and every command that looks at it.

Also on a real cluster; test_documentation.py asks the same of the local one, each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_cli.yamltext import documents

from .api import FINETUNE_JOBS, PATIENCE
from .jobs import MERGE, STEPS, Tenant, training


class Finetune:
    """`finetune` in the tenant's namespace; storage is where the tests reach it."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._environment = {**os.environ, "KUBECONFIG": str(tenant.place.kubeconfig), "COLUMNS": "100"}

    def __call__(self, command: str, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "finetune_cli", command, *words, "-n", self._tenant.namespace],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=180 * PATIENCE,
            check=False,
        )
        assert done.returncode == code, f"finetune {command} {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def finetune(tenant: Tenant) -> Finetune:
    return Finetune(tenant)


@pytest.mark.slow
def test_every_command_on_one_job(tenant: Tenant, finetune: Finetune, tmp_path: Path) -> None:
    tenant.apply(tenant.job("tones", [training(), MERGE], suspend=True))
    assert "has published nothing yet" in finetune("download", "tones", code=2)
    missing = finetune("status", "missing", code=2)
    assert "there is no FinetuneJob missing" in missing
    assert "there: tones" in missing
    assert "tones: goes on" in finetune("resume", "tones")
    watched = finetune("watch", "tones")
    assert "lora" in watched
    assert "Succeeded" in watched

    shown = finetune("status", "tones")
    stages = [line.split()[0] for line in shown.splitlines() if line.split()[1:2] == ["Succeeded"]]
    assert stages[1:] == ["prepare", "lora", "merge", "publish"], shown
    status = json.loads(finetune("status", "tones", "-o", "json"))
    assert status["phase"] == "Succeeded"
    (read,) = documents(finetune("status", "tones", "-o", "yaml"))
    assert read.value == status

    assert f"{STEPS}/{STEPS} (100 %)" in finetune("logs", "tones", "--stage", "lora")
    assert '"step":' in finetune("logs", "tones", "--stage", "lora", "--raw", "--tail", "20")
    assert "tones: loss by step" in finetune("plot", "tones", "--width", "60")

    words = finetune("download", "tones", "model", "--dir", str(tmp_path), "--endpoint", str(_endpoint(tenant)))
    assert "model" in words
    assert (tmp_path / "model" / "config.json").is_file()
    assert not (tmp_path / "adapter").exists()

    tree = json.loads(finetune("lineage", "tones", "model", "-o", "json", "--endpoint", str(_endpoint(tenant))))[
        "model"
    ]
    (lora,) = [item for item in tree["madeFrom"] if item["name"].startswith("lora")]
    assert {"data train", "base model Phi3ForCausalLM"} <= {item["name"] for item in lora["madeFrom"]}


def _endpoint(tenant: Tenant) -> str:
    return tenant.place.bucket.where


@pytest.mark.slow
def test_suspend_stops_the_pods_and_retry_runs_again(tenant: Tenant, finetune: Finetune) -> None:
    tenant.apply(tenant.job("often", [training(steps=5)]))
    tenant.succeeded("often")
    assert "often: runs again" in finetune("retry", "often", "--run-id", "second")
    assert "Reused" in finetune("watch", "often")
    assert tenant.place.api.get(tenant.path(FINETUNE_JOBS, "often"))["spec"]["runId"] == "second"
    assert "often: suspended" in finetune("suspend", "often")
