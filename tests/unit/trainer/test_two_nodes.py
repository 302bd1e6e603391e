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


# A trainer whose second rank is out of memory in the midst of its first pass.
SHORT = """
import os, sys
from finetune_trainer import child
from finetune_trainer.training import micro_batches
before = micro_batches._one_pass
def one_pass(setup, samples):
    if os.environ["RANK"] == "1" and len(samples) > 1:
        import torch
        from transformers.modeling_layers import GradientCheckpointingLayer
        def refuse(*_):
            raise torch.OutOfMemoryError("full")
        *_, layer = (item for item in setup.model.modules() if isinstance(item, GradientCheckpointingLayer))
        layer.register_forward_pre_hook(refuse)
    return before(setup, samples)
micro_batches._one_pass = one_pass
sys.exit(child.main())
"""
SUPERVISED = f"""
import os, sys
from finetune_trainer.ranks import of_this_pod
from finetune_trainer.supervisor import Supervisor
sys.exit(Supervisor([sys.executable, "-c", {SHORT!r}], *of_this_pod(os.environ)).run())
"""


def start(world: World, document: Any, index: int, port: int, *command: str) -> tuple[subprocess.Popen[str], Path]:
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
    words = [sys.executable, *(command or ("-m", "finetune_trainer", "run"))]
    return subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), folder


def training(world: World, **config: Any) -> Any:
    """The document of the job's training, prepared."""
    world.spec["passes"][0]["config"] |= {"trainingArgs": TRAINING} | config
    pins = world.prepare().prepared.pins
    spec = check(world.spec)[0]
    return world.document(
        "LoRA",
        "lora",
        "1" * 64,
        config=spec.passes[0].config.wire(),
        inputModel=spec.input_model,
        data=spec.data_configs,
        pins=pins,
    )


@pytest.mark.slow
def test_two_pods_start_again_where_one_has_too_little_memory(world: World) -> None:
    arguments = TRAINING | {"autoBatchSize": True}
    document, port = training(world, sharding="fsdp", trainingArgs=arguments), free_port()
    pods = [start(world, document, index, port, "-c", SUPERVISED) for index in (0, 1)]
    said = [process.communicate(timeout=300)[0] for process, _ in pods]
    assert [process.returncode for process, _ in pods] == [0, 0], "\n".join(said)
    assert "rank 1: a pass of 2 samples does not fit (full); all ranks start again with a smaller pass" in said[1]
    assert "passes: of 1 samples, since 2 do not fit into memory" in said[0]
    assert '"step":2' in said[0]


@pytest.mark.slow
def test_two_pods_with_half_the_base_each_go_on_from_an_adapter(world: World) -> None:
    first = world.run(training(world))
    world.spec["inputModel"]["adapterPath"] = f"{world.store}/stages/{'1' * 64}/{first.attempt}"
    document, port = training(world, sharding="fsdp").model_copy(update={"key": "2" * 64}), free_port()
    pods = [start(world, document, index, port) for index in (0, 1)]
    said = [process.communicate(timeout=300)[0] for process, _ in pods]
    assert [process.returncode for process, _ in pods] == [0, 0], "\n".join(said)
    assert "shared out among 2 processes" in said[0]
    assert "tokens of train: those that" in said[0], "as prepare kept them"
    assert StageResult.model_validate_json((pods[0][1] / "result").read_bytes()).metrics["steps"] == 2


@pytest.mark.slow
def test_two_pods_train_one_adapter(world: World) -> None:
    document, port = training(world), free_port()
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
