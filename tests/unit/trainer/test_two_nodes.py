"""Two pods of one process each, as a cluster starts them: they meet, train one adapter, and the first publishes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.rules import check
from finetune_api.stage import StageResult

from .passes.ranks import free_port
from .world import World

TRAINING = {"maxSteps": 2, "perDeviceTrainBatchSize": 2}


def start(world: World, document: Any, index: int, port: int) -> tuple[subprocess.Popen[str], Path]:
    folder = world.folder / f"pod-{index}"
    folder.mkdir()
    variables = {
        **os.environ,
        "FINETUNE_STAGE": document.model_dump_json(by_alias=True, exclude_none=True),
        "FINETUNE_RESULT_PATH": str(folder / "result"),
        "FINETUNE_SCRATCH": str(folder),
        "FINETUNE_STORAGE_CREDENTIALS": str(world.credentials),
        "FINETUNE_NODES": "2",
        "FINETUNE_PROCESSES_PER_NODE": "1",
        "FINETUNE_RENDEZVOUS": f"127.0.0.1:{port}",
        "JOB_COMPLETION_INDEX": str(index),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "finetune_trainer", "run"]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), folder


@pytest.mark.slow
def test_two_pods_train_one_adapter(world: World) -> None:
    world.spec["passes"][0]["config"]["trainingArgs"] = TRAINING
    pins = world.prepare().prepared.pins
    spec = check(world.spec)[0]
    document = world.document(
        "LoRA",
        "lora",
        "1" * 64,
        config=spec.passes[0].config.wire(),
        inputModel=spec.input_model,
        data=spec.data_configs,
        pins=pins,
    )
    port = free_port()
    pods = [start(world, document, index, port) for index in (0, 1)]
    said = [process.communicate(timeout=300)[0] for process, _ in pods]
    assert [process.returncode for process, _ in pods] == [0, 0], "\n".join(said)
    results = [StageResult.model_validate_json((folder / "result").read_bytes()) for _, folder in pods]
    assert results[0].digest and results[0].metrics["steps"] == 2
    assert results[1].ok and results[1].digest is None
    manifest = json.loads(world.s3.get(f"{world.store}/stages/{'1' * 64}/manifest.json"))
    assert "adapter_model.safetensors" in {file["path"] for file in manifest["files"]}
    assert '"step":2' in said[0]
    assert '"kind":"progress"' not in said[1], "one rank reports"
