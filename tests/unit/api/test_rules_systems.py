"""What an API server would refuse of a stage's pod is said of the spec; and what it takes is not."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import rules

from .specs import job_spec


def found(**system: Any) -> list[str]:
    """The problems of a system, each as a line."""
    return [str(item) for item in rules.check(job_spec(systems=[{"name": "box", **system}]))[1]]


RIGHT = [
    {"resources": {"requests": {"cpu": "1500m", "memory": "8Gi"}, "limits": {"cpu": 2, "memory": "8Gi"}}},
    {"resources": {"requests": {"cpu": 4}, "limits": {"memory": "8Gi", "nvidia.com/gpu": 1}}},
    {"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": "1"}}},
    {"resources": {"limits": {"ephemeral-storage": "10Gi", "example.com/fpga": 2}}},
    {"nodeSelector": {"kubernetes.io/arch": "amd64", "pool": "", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
    {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]},
    {"tolerations": [{"operator": "Exists"}, {"key": "team", "value": "ml"}]},
    {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]},
]


@pytest.mark.parametrize("system", RIGHT)
def test_what_a_pod_may_have_is_no_problem(system: dict[str, Any]) -> None:
    assert found(**system) == []


GPU = "spec.systems[0].resources.requests[nvidia.com/gpu] (1): it cannot be shared, and has"
WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"resources": {"requests": {"memory": "16Gi"}, "limits": {"memory": "8Gi"}}},
        "spec.systems[0].resources.requests[memory] (16Gi): more than its limit 8Gi. Lower the request, or raise the "
        "limit.",
    ),
    ({"resources": {"requests": {"nvidia.com/gpu": 1}}}, f"{GPU} no limit. Give it under limits alone."),
    (
        {"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}}},
        f"{GPU} limit 2. Give it under limits alone.",
    ),
    (
        {"resources": {"limits": {"nvidia.com/gpu": "500m"}}},
        "spec.systems[0].resources.limits[nvidia.com/gpu] (500m): no whole number of devices. Write 1, 2, …",
    ),
    (
        {"resources": {"limits": {"gpu": 1}}},
        "spec.systems[0].resources.limits[gpu] (1): no resource of containers. Write cpu, memory, ephemeral-storage, "
        "or a device with its domain, such as nvidia.com/gpu.",
    ),
    (
        {"nodeSelector": {"pool": "fast one"}},
        "spec.systems[0].nodeSelector[pool] (fast one): no label's value. Write it as kubectl get nodes --show-labels "
        "does.",
    ),
    (
        {"nodeSelector": {"/pool": "a"}},
        "spec.systems[0].nodeSelector[/pool] (/pool): no label's key. Write it as kubectl get nodes --show-labels "
        "does.",
    ),
    (
        {"tolerations": [{"value": "a"}]},
        "spec.systems[0].tolerations[0].key: Equal needs a key. Write the taint's key, or operator Exists.",
    ),
    (
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "spec.systems[0].tolerations[0].value (b): Exists has no value. Remove it, or write operator Equal.",
    ),
    (
        {"tolerations": [{"key": "a", "value": "b c"}]},
        "spec.systems[0].tolerations[0].value (b c): no label's value. Write the taint's value.",
    ),
    (
        {"tolerations": [{"key": "a b"}]},
        "spec.systems[0].tolerations[0].key (a b): no label's key. Write the taint's key.",
    ),
    (
        {"tolerations": [{"key": "a", "tolerationSeconds": 5}]},
        "spec.systems[0].tolerations[0].tolerationSeconds (5): only for effect NoExecute. Remove it, or write that "
        "effect.",
    ),
]


@pytest.mark.parametrize(("system", "words"), WRONG)
def test_what_no_pod_may_have_is_said_with_its_remedy(system: dict[str, Any], words: str) -> None:
    assert found(**system) == [words]
