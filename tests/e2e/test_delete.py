"""Deleting a running job takes everything of it away."""

from __future__ import annotations

import psutil

from finetune_api.status import StageState

from .api import FINETUNE_JOBS, wait_for
from .jobs import Tenant, training


def processes_of(uid: str) -> list[int]:
    """Processes on this machine that were handed a stage of the job `uid`."""
    found = []
    for process in psutil.process_iter():
        try:
            if uid in process.environ().get("FINETUNE_STAGE", ""):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_jobs_pods_and_processes_go_with_their_job(tenant: Tenant) -> None:
    name = tenant.apply(tenant.job("deleted", [training(steps=100_000)]))
    path = tenant.path(FINETUNE_JOBS, name)
    uid = tenant.place.api.get(path)["metadata"]["uid"]

    def training_runs() -> bool:
        stages = {stage.name: stage for stage in tenant.status(name).stages}
        lora = stages.get("lora")
        return bool(lora and lora.state == StageState.RUNNING and lora.progress and lora.progress.step)

    wait_for("lora to make steps", training_runs, 60)
    if tenant.place.local:
        assert processes_of(uid)
    tenant.place.api.delete(path)
    wait_for("the job to be gone", lambda: not tenant.place.api.exists(path), 30)
    wait_for("its Jobs to be gone", lambda: not tenant.jobs_of(name), 30)
    wait_for("its pods to be gone", lambda: not tenant.pods_of(name), 30)
    if tenant.place.local:
        wait_for("its processes to be gone", lambda: not processes_of(uid), 15)
