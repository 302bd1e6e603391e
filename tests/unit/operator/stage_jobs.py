"""The Jobs of every stage of a job with all that there can be, as an API server stores them."""

from __future__ import annotations

from typing import Any

from finetune_operator import labels

from ..api.specs import Spec, job_spec
from .world import World

GPU_SYSTEM = {
    "name": "gpu",
    "image": "registry.example/trainer:1",
    "resources": {"requests": {"cpu": "3500m", "memory": "8Gi"}, "limits": {"nvidia.com/gpu": 1, "memory": "16Gi"}},
    "nodeSelector": {"gpu": "h200"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "low",
    "serviceAccountName": "trainer",
    "runtimeClassName": "nvidia",
}


def on_gpu(**fields: Any) -> Spec:
    spec = job_spec(systems=[GPU_SYSTEM], **fields)
    spec["engine"]["host"] = "gpu"
    spec["inputModel"] = {
        "modelPath": "microsoft/Phi-3-mini-4k-instruct",
        "tokenSecretRef": {"name": "hub", "key": "token"},
    }
    return spec


def all_jobs(spec: Spec, name: str = "phi3") -> dict[str, dict[str, Any]]:
    """Stage → its Job, of a run that goes well, and of one probe."""
    world = World(spec, name=name)
    job = world.run_until("lora")
    world.complete(job, world.answer(job), lost=True)
    world.run_to_the_end()
    assert world.status["phase"] == "Succeeded"
    return {item["metadata"]["labels"][labels.STAGE]: item for item in world.jobs.values()}


JOBS = all_jobs(on_gpu())


STAGES = ["prepare", "evaluate-input", "lora", "probe-lora", "merge", "onnx", "evaluate-onnx", "publish"]


ON_GPU = {"evaluate-input", "lora", "evaluate-onnx"}


def pod(stage: str) -> dict[str, Any]:
    found: dict[str, Any] = JOBS[stage]["spec"]["template"]["spec"]
    return found


def container(stage: str) -> dict[str, Any]:
    (found,) = pod(stage)["containers"]
    return dict(found)


def environment(stage: str) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container(stage)["env"]}


def variables_of(template: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in template["containers"][0]["env"]}
