"""The sample server, in a pod as its Deployment has it, answers with a model that a job has just published."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from .api import PATIENCE, PODS, Body, wait_for
from .jobs import BUILD, Tenant
from .places import SECRET

SAMPLE = Path(__file__).parents[2] / "examples/serving"
CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"
NAME = "tones"
SERVER = "model-server"
Ask = Callable[..., requests.Response]


def config_map(tenant: Tenant, name: str, content: dict[str, str]) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": content}
    tenant.place.api.apply(tenant.path(CONFIG_MAPS, name), body)


def pod(port: int) -> Body:
    """A pod of the sample's Deployment, with the image, the storage's Secret and the port that the tests have."""
    deployment, _ = yaml.safe_load_all((SAMPLE / "deployment.yaml").read_text())
    spec = deployment["spec"]["template"]["spec"]
    for container in [*spec["initContainers"], *spec["containers"]]:
        container["image"] = os.environ.get("FINETUNE_TRAINER_IMAGE", "finetune-trainer:latest")
        container["imagePullPolicy"] = "IfNotPresent"
    (server,) = spec["containers"]
    server["env"] = [{"name": "PORT", "value": str(port)}]
    server["ports"][0]["containerPort"] = port
    next(item for item in spec["volumes"] if item["name"] == "storage")["secret"]["secretName"] = SECRET
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": SERVER}, "spec": spec}


@pytest.fixture
def serve(tenant: Tenant) -> Callable[[dict[str, str]], Ask]:
    """Starts the server for a model; what it gives asks it: through the API server's proxy, or where pods have none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1]) if tenant.place.local else 8080

    def start(model: dict[str, str]) -> Ask:
        config_map(tenant, "model", model)
        config_map(tenant, SERVER, {"server.py": (SAMPLE / "server.py").read_text()})
        tenant.place.api.create(tenant.path(PODS), pod(port))

        def ask(method: str, path: str, body: Body | None = None) -> requests.Response:
            if tenant.place.local:
                return requests.request(method, f"http://127.0.0.1:{port}{path}", json=body, timeout=60 * PATIENCE)
            proxy = tenant.path(PODS, f"{SERVER}:{port}/proxy{path}")
            return tenant.place.api.request(method, proxy, body)

        return ask

    return start


@pytest.mark.slow
def test_a_published_model_is_promoted_and_answers_and_one_of_another_digest_is_not_served(
    tenant: Tenant, serve: Callable[[dict[str, str]], Ask]
) -> None:
    status = tenant.succeeded(tenant.apply(tenant.job("build", [BUILD], dataConfigs=[])))
    (onnx,) = [item for item in status.artifacts if item.name == "onnx"]
    model = {**reachable(tenant), "MANIFEST": onnx.manifest, "DIGEST": onnx.digest}
    answers(tenant, serve(model))

    tenant.place.api.delete(tenant.path(PODS, SERVER))
    wait_for("the server to be gone", lambda: not tenant.place.api.exists(tenant.path(PODS, SERVER)), 60)
    serve({**model, "DIGEST": "0" * 64})
    wait_for("the init container to refuse", lambda: "its manifest has" in said(tenant), 60)
    states = tenant.place.api.get(tenant.path(PODS, SERVER))["status"].get("containerStatuses", [])
    assert not any("running" in item["state"] for item in states)


def answers(tenant: Tenant, ask: Ask) -> None:
    """The server says what it has, answers a prompt the same both ways, and refuses what is no question."""

    def up() -> bool:
        try:
            return ask("GET", "/healthz").ok
        except requests.ConnectionError:
            return False

    wait_for(lambda: f"the server to answer: {said(tenant)}", up, 60)
    assert ask("GET", f"/v1/models/{NAME}").json() == {"name": NAME, "ready": True}
    question = {"prompt": "### Text: I won the prize!\n### The tone is:\n", "max_tokens": 6}
    answer = ask("POST", "/v1/completions", question).json()
    assert answer["model"] == NAME
    assert 1 <= answer["usage"]["completion_tokens"] <= 6
    same = ask("POST", f"/v1/models/{NAME}:predict", {"instances": [question["prompt"]], "max_tokens": 6}).json()
    assert same == {"predictions": [answer["choices"][0]["text"]]}
    for wrong in ({"prompt": 1}, {"prompt": ""}, {"prompt": "x", "max_tokens": 0}, {"prompt": "x", "stream": True}):
        refused = ask("POST", "/v1/completions", wrong)
        assert refused.status_code == 400
        assert refused.json()["error"]["message"]


def reachable(tenant: Tenant) -> dict[str, str]:
    """What model.env says of an S3 server that is not AWS's."""
    return {"NAME": NAME, "AWS_ENDPOINT_URL": tenant.place.endpoint}


def said(tenant: Tenant) -> str:
    """The logs of the pod's containers, as far as there are any."""
    path = tenant.path(PODS, SERVER)
    texts = [
        tenant.place.api.request("GET", f"{path}/log", container=name, previous=previous).text
        for name in ("pull", "server")
        for previous in ("false", "true")
    ]
    status: dict[str, Any] = tenant.place.api.get(path).get("status") or {}
    return "\n".join([*texts, json.dumps(status)])
