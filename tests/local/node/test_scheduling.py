"""Resource fit, selectors, taints, and the scheduler's words."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.node.node import NodeSettings, node_object
from finetune_local.node.quantities import parse
from finetune_local.node.scheduler import obstacles, requests, unschedulable_message


def make_pod(resources: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources or {}}], **spec}}


def make_node(**settings: Any) -> dict[str, Any]:
    return node_object(NodeSettings(cpus=4, memory=8 * 2**30, labels={"disk": "ssd"}, **settings))


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("500m", Decimal("0.5")), ("1Gi", 2**30), ("1e3", 1000), ("1.5k", 1500), ("3E", 3 * 10**18), (7, 7)],
)
def test_quantities(text: str | int, value: Decimal) -> None:
    assert parse(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1GiB", "one", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        parse(text)


@given(st.integers(0, 10**12), st.sampled_from(["", "m", "k", "Ki", "M", "Mi", "G", "Gi", "e3"]))
def test_quantities_grow_with_their_number(number: int, suffix: str) -> None:
    assert parse(f"{number + 1}{suffix}") > parse(f"{number}{suffix}") >= 0


def test_requests_fall_back_on_limits_and_take_the_largest_init_container() -> None:
    pod = make_pod({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}})
    pod["spec"]["initContainers"] = [{"name": "i", "resources": {"requests": {"memory": "3Gi"}}}]
    assert requests(pod) == {"cpu": 1, "memory": 3 * 2**30, "pods": 1}


def test_a_pod_that_fits_has_no_obstacles() -> None:
    assert obstacles(make_pod({"requests": {"cpu": "4", "memory": "8Gi"}}), make_node(), {}) == []
    gpu = make_pod({"limits": {"nvidia.com/gpu": "1"}})
    assert obstacles(gpu, make_node(extended={"nvidia.com/gpu": 1}), {}) == []


def test_a_missing_gpu_is_said_in_the_schedulers_words() -> None:
    reasons = obstacles(make_pod({"limits": {"nvidia.com/gpu": "1"}}), make_node(), {})
    assert unschedulable_message(reasons) == (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. "
        "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )


def test_what_others_use_is_not_there() -> None:
    pod = make_pod({"requests": {"cpu": "2"}})
    assert obstacles(pod, make_node(), {"cpu": Decimal(2)}) == []
    assert obstacles(pod, make_node(), {"cpu": Decimal("2.1")}) == ["Insufficient cpu"]
    assert obstacles(pod, make_node(pods=1), {"pods": Decimal(1)}) == ["Too many pods"]


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ({"key": "disk", "operator": "In", "values": ["ssd"]}, True),
        ({"key": "disk", "operator": "NotIn", "values": ["ssd"]}, False),
        ({"key": "gone", "operator": "NotIn", "values": ["x"]}, True),
        ({"key": "disk", "operator": "Exists"}, True),
        ({"key": "disk", "operator": "DoesNotExist"}, False),
        ({"key": "gone", "operator": "Gt", "values": ["1"]}, False),
    ],
)
def test_node_affinity(expression: dict[str, Any], *, fits: bool) -> None:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    assert (obstacles(make_pod(affinity=affinity), make_node(), {}) == []) == fits


def test_node_name_and_selector() -> None:
    field = {"key": "metadata.name", "operator": "In", "values": ["other"]}
    terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    expected = ["node(s) didn't match Pod's node affinity/selector"]
    assert obstacles(make_pod(affinity=affinity), make_node(), {}) == expected
    assert obstacles(make_pod(nodeSelector={"disk": "hdd"}), make_node(), {}) == expected
    assert obstacles(make_pod(nodeSelector={"disk": "ssd"}), make_node(), {}) == []


def test_taints_and_tolerations() -> None:
    node = make_node()
    node["spec"]["taints"] = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
    assert obstacles(make_pod(), node, {}) == ["node(s) had untolerated taint {gpu: yes}"]
    for toleration in ({"key": "gpu", "operator": "Exists"}, {"key": "gpu", "value": "yes"}, {"operator": "Exists"}):
        assert obstacles(make_pod(tolerations=[toleration]), node, {}) == []
    assert obstacles(make_pod(tolerations=[{"key": "gpu", "value": "no"}]), node, {}) != []
