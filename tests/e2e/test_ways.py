"""The ways through the product, each from apply to artifacts: all passes, QLoRA, ModelBuilder alone, LoRA alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime_genai

from finetune_api.status import Status
from finetune_cli import results

from .. import recompute
from .api import PATIENCE
from .jobs import BUILD, MERGE, STEPS, Tenant, training

ALL = ["prepare", "evaluate-input", "lora", "merge", "builder", "evaluate-builder", "publish"]


def folders(tenant: Tenant, status: Status, output: Path) -> dict[str, Path]:
    """Every artifact on this machine, its files checked against their manifest."""
    return {item.name: results.fetch(tenant.place.bucket, item, output).folder for item in status.artifacts}


def verified(folder: Path) -> int:
    """The exit code of the trainer's own verification."""
    command = [sys.executable, "-m", "finetune_trainer", "verify", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def answered_alone(folder: Path, phrases: list[str]) -> list[str]:
    """What the example's infer.py answers from the downloaded folder, where only onnxruntime-genai can be imported."""
    command = [sys.executable, str(Path(__file__).parents[1] / "lone_infer.py"), str(folder), *phrases]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120 * PATIENCE)
    return done.stdout.splitlines()


def test_lora_merge_int4_and_evaluation(tenant: Tenant, tmp_path: Path) -> None:
    status = tenant.succeeded(tenant.apply(tenant.whole_job("whole")))

    assert [stage.name for stage in status.stages] == ALL
    assert {stage.state for stage in status.stages} == {"Succeeded"}
    assert {stage.attempts for stage in status.stages} == {1}
    assert tenant.stages_of_jobs("whole") == sorted(ALL)
    figures = {stage.name: stage.metrics or {} for stage in status.stages}
    assert figures["lora"]["steps"] == STEPS
    for stage in ("evaluate-input", "evaluate-builder"):
        assert figures[stage]["few/n"] == 24
        assert 0 <= figures[stage]["few/low"] <= figures[stage]["few"] <= figures[stage]["few/high"] <= 1

    found = folders(tenant, status, tmp_path)
    assert set(found) == {"adapter", "model", "onnx", "report"}
    assert {"config.json", "tokenizer.json"} <= {path.name for path in found["model"].iterdir()}
    assert list(found["model"].glob("*.safetensors"))
    card = (found["onnx"] / "README.md").read_text()
    assert all(text in card for text in ("## Figures of lora", '"learningRate": 0.005', "| perplexity_ratio |"))
    assert recompute.differences(found["report"]) == []
    stages = [stage.model_dump(mode="json") for stage in status.stages]
    assert recompute.status_differences(found["report"], stages) == []
    assert recompute.asked_again(found["report"], found["onnx"], "evaluate-builder", 6) == []
    assert len(answered_alone(found["onnx"], ["The funeral was long.", "A fine picnic!"])) == 2
    assert verified(found["model"]) == 0
    weights = next(found["model"].glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert verified(found["model"]) != 0


def test_qlora_is_merged_and_built_too(tenant: Tenant, tmp_path: Path) -> None:
    qlora = training("QLoRA", steps=5, quantType="nf4", doubleQuant=True)
    status = tenant.succeeded(tenant.apply(tenant.job("quantized", [qlora, MERGE, BUILD])))
    assert [stage.name for stage in status.stages] == ["prepare", "qlora", "merge", "builder", "publish"]
    found = folders(tenant, status, tmp_path)
    assert set(found) == {"adapter", "model", "onnx", "report"}
    onnxruntime_genai.Model(str(found["onnx"]))


def test_model_builder_alone_quantizes_the_input_model(tenant: Tenant, tmp_path: Path) -> None:
    status = tenant.succeeded(tenant.apply(tenant.job("build", [BUILD], dataConfigs=[])))
    assert [stage.name for stage in status.stages] == ["prepare", "builder", "publish"]
    found = folders(tenant, status, tmp_path)
    assert set(found) == {"onnx", "report"}
    onnxruntime_genai.Model(str(found["onnx"]))


def test_lora_alone_leaves_an_adapter_that_another_job_goes_on_from(tenant: Tenant, tmp_path: Path) -> None:
    first = tenant.succeeded(tenant.apply(tenant.job("first", [training(steps=5)])))
    assert [stage.name for stage in first.stages] == ["prepare", "lora", "publish"]
    found = folders(tenant, first, tmp_path)
    assert set(found) == {"adapter", "report"}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in found["adapter"].iterdir()}

    second = tenant.succeeded(tenant.apply(tenant.job("second", [training(steps=5), MERGE])))
    assert {stage.name: stage.state for stage in second.stages}["lora"] == "Reused"
    assert tenant.stages_of_jobs("second") == ["merge", "prepare", "publish"]
    adapters = {item.digest for status in (first, second) for item in status.artifacts if item.name == "adapter"}
    assert len(adapters) == 1

    going_on = training(steps=6)
    going_on["config"]["sharding"] = "fsdp"
    job = tenant.job("third", [going_on])
    uri = next(item.uri for item in first.artifacts if item.name == "adapter")
    job["spec"]["inputModel"]["adapterPath"] = uri
    job["spec"]["systems"][0]["processesPerNode"] = 2
    third = tenant.succeeded(tenant.apply(job))
    assert {stage.name: stage.state for stage in third.stages}["lora"] == "Succeeded"
    pins = tenant.manifest(next(item for item in third.artifacts if item.name == "adapter")).pins
    assert pins is not None and pins.model.adapter is not None
