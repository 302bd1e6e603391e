"""A stage's process that is killed says nothing any more; what it said before is found all the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
from kubernetes import client, config
from kubernetes.stream import stream

from finetune_cli.errors import CliError

from .api import PATIENCE, PODS, wait_for
from .jobs import Tenant, training

# A pod's supervisor is PID 1, and the stage its only child.
KILL = (
    "import os, signal\n[stage] = open('/proc/1/task/1/children').read().split()\nos.kill(int(stage), signal.SIGKILL)"
)


def kill_stage(tenant: Tenant, pod: str) -> None:
    """SIGKILL to the stage's process alone, as the kernel may do it; the pod's PID 1 lives on."""
    if not tenant.place.local:
        settings = client.Configuration()
        config.load_kube_config(config_file=str(tenant.place.kubeconfig), client_configuration=settings)
        api = client.CoreV1Api(client.ApiClient(settings))
        command = ["python", "-c", KILL]
        stream(api.connect_get_namespaced_pod_exec, pod, tenant.namespace, command=command, stderr=True, stdout=True)
        return
    [stage] = [item for item in psutil.process_iter(["cmdline"]) if _is_stage(item, tenant.namespace)]
    os.kill(stage.pid, signal.SIGKILL)


def _is_stage(process: psutil.Process, namespace: str) -> bool:
    """Whether it is a stage's own process, of a job of this namespace."""
    try:
        if (process.info["cmdline"] or [])[-2:] != ["finetune_trainer", "stage"]:
            return False
        said = json.loads(process.environ().get("FINETUNE_STAGE", "{}"))
    except psutil.Error:
        return False
    return bool(said) and said["job"]["namespace"] == namespace


def log_of(tenant: Tenant, pod: str) -> str:
    return tenant.place.api.request("GET", f"{tenant.path(PODS, pod)}/log").text


@pytest.mark.slow
def test_a_killed_stage_is_explained_from_the_store(tenant: Tenant) -> None:
    name = tenant.apply(tenant.job("killed", [training(steps=2000)], maxAttempts=1))

    def learning() -> str | None:
        pods = [pod for pod in tenant.pods_of(name) if pod["metadata"]["labels"]["finetune.dev/stage"] == "lora"]
        found = [pod["metadata"]["name"] for pod in pods]
        return next((pod for pod in found if '"step":' in log_of(tenant, pod)), None)

    pod = wait_for("the stage to learn", learning, 90)
    kill_stage(tenant, pod)
    status = tenant.ended(name, 60)

    (lora,) = [stage for stage in status.stages if stage.name == "lora"]
    # A kernel that does not say whether memory ran out, a sandbox's, leaves it at that.
    assert (lora.state, lora.reason in ("InternalError", "OutOfMemory")) == ("Failed", True)
    assert lora.evidence
    files = {
        file: tenant.place.bucket.read(f"{lora.evidence}/{file}").decode() for file in ("log.txt", "traceback.txt")
    }
    assert '"step":' in files["log.txt"]
    said = set(log_of(tenant, pod).splitlines())
    assert set(files["log.txt"].splitlines()) <= said, "what the pod said until then"
    assert "was killed by SIGKILL" in files["traceback.txt"]
    secret = tenant.place.credentials["AWS_SECRET_ACCESS_KEY"]
    assert not any(secret in text for text in files.values())
    assert json.loads(tenant.place.bucket.read(f"{lora.evidence}/stage.json"))["stage"] == "lora"
    with pytest.raises(CliError):
        tenant.place.bucket.read(f"{tenant.place.root}/jobs/stages/{lora.key}/manifest.json")

    shown = subprocess.run(
        [sys.executable, "-m", "finetune_cli", "status", name, "-n", tenant.namespace],
        env={**os.environ, "KUBECONFIG": str(tenant.place.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=True,
    ).stdout
    assert re.search(rf"^lora's last log lines, .*: {re.escape(lora.evidence)}$", shown, re.MULTILINE)
