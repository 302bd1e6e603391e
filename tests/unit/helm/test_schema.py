"""Every rendered object and every Job of the operator has only fields that Kubernetes knows, and all that it needs."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from kubernetes import client
from pydantic import ValidationError

from .chart import VALUES, Body, render
from .pods import stage_objects

CUSTOM = "monitoring.coreos.com"


def check(body: Body) -> list[str]:
    """What the client's own types, which forbid fields that they do not know, find wrong with an object."""
    if body["apiVersion"].startswith(CUSTOM):
        return []
    name = f"{body['kind']} {body['metadata']['name']}"
    model = getattr(client, body["apiVersion"].rpartition("/")[2].capitalize() + body["kind"])
    try:
        model.model_validate(with_string_quantities(body))
    except ValidationError as error:
        return [f"{name}: {item['loc']}: {item['msg']}" for item in error.errors()]
    return []


def with_string_quantities(body: Body) -> Body:
    """The client calls quantities strings; the API server takes whole numbers too."""
    result = copy.deepcopy(body)
    for container in result["spec"]["template"]["spec"]["containers"] if body["kind"] == "Job" else ():
        for amounts in container["resources"].values():
            amounts.update({name: str(amount) for name, amount in amounts.items()})
    return result


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_chart_renders_what_kubernetes_knows(values: Body) -> None:
    objects = [body for body in render(values) if body["kind"] != "CustomResourceDefinition"]
    assert [problem for body in objects for problem in check(body)] == []


def test_the_operator_creates_what_kubernetes_knows() -> None:
    objects = stage_objects()
    assert {body["kind"] for body in objects} == {"Job", "ConfigMap", "Service"}
    assert [problem for body in objects for problem in check(body)] == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.selector", None, "selector.*required"),
        ("spec.replicas", "two", "replicas.*integer"),
        ("spec.template.spec.serviceAccout", "x", "serviceAccout.*not permitted"),
        ("spec.template.spec.securityContext.runAsNoRoot", True, "runAsNoRoot.*not permitted"),
    ],
)
def test_the_check_can_fail(path: str, value: Any, said: str) -> None:
    deployment = next(body for body in render() if body["kind"] == "Deployment")
    *parents, last = path.split(".")
    here = deployment
    for name in parents:
        here = here[name]
    if value is None:
        del here[last]
    else:
        here[last] = value
    assert re.search(said, "\n".join(check(deployment)))
