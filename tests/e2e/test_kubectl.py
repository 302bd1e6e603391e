"""What a user does with kubectl, word by word."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .api import PATIENCE, wait_for
from .jobs import Tenant, training

pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


class Kubectl:
    """kubectl in the tenant's namespace."""

    def __init__(self, tenant: Tenant, home: Path) -> None:
        self._environment = {**os.environ, "KUBECONFIG": str(tenant.place.kubeconfig), "HOME": str(home)}
        self._command = ["kubectl", "-n", tenant.namespace]

    def __call__(self, *words: str, text: str | None = None, seconds: float = 90 * PATIENCE) -> str:
        done = subprocess.run(
            [*self._command, *words],
            input=text,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def start(self, *words: str, output: Path) -> subprocess.Popen[bytes]:
        """kubectl in the background, writing to `output`."""
        with output.open("wb") as file:
            return subprocess.Popen([*self._command, *words], env=self._environment, stdout=file)


def test_apply_watch_describe_wait_logs_delete(tenant: Tenant, tmp_path: Path) -> None:
    kubectl = Kubectl(tenant, tmp_path)
    job = yaml.safe_dump(tenant.job("tones", [training(steps=10)]))
    assert "finetunejob.finetune.dev/tones created" in kubectl("apply", "-f", "-", text=job)
    seen = tmp_path / "watch"
    watch = kubectl.start("get", "ftj", "tones", "-w", output=seen)
    try:
        kubectl("wait", "--for=condition=Succeeded", "ftj/tones", f"--timeout={80 * PATIENCE:g}s")
        wait_for("the watch to show the end", lambda: "Succeeded" in seen.read_text(), 10)
    finally:
        watch.terminate()
        watch.wait()

    lines = seen.read_text().splitlines()
    assert lines[0].split() == ["NAME", "PHASE", "STAGE", "PROGRESS", "LOSS", "AGE"]
    assert any(" Running " in line and " lora " in line for line in lines)
    edited = job.replace("loggingSteps: 1", "loggingSteps: 2")
    assert "configured" in kubectl("apply", "-f", "-", text=edited)
    kubectl("wait", "--for=jsonpath={.status.observedGeneration}=2", "ftj/tones", f"--timeout={30 * PATIENCE:g}s")
    kubectl("wait", "--for=condition=Succeeded", "ftj/tones", f"--timeout={80 * PATIENCE:g}s")
    assert "unchanged" in kubectl("apply", "-f", "-", text=edited)

    described = kubectl("describe", "ftj", "tones")
    for words in ("StageSucceeded", "ArtifactsPublished", "s3://", "Phase:"):
        assert words in described
    stages = {stage.name: stage for stage in tenant.status("tones").stages}
    assert '"kind":"progress"' in kubectl("logs", f"job/{stages['lora'].job}")
    kubectl("delete", "ftj", "tones")
    wait_for("its Jobs to be gone", lambda: not tenant.jobs_of("tones"), 15)
