"""The chart on the tests' cluster: its account and rights as they are, its Deployment's environment in a process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import helm_python
import yaml

from .api import NAMESPACES, Api, Body, wait_for
from .places import Place

CHART = Path(__file__).parents[2] / "helm/finetune-operator"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
COLLECTIONS = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Role": RBAC + "/namespaces/{namespace}/roles",
    "RoleBinding": RBAC + "/namespaces/{namespace}/rolebindings",
    "ClusterRole": RBAC + "/clusterroles",
    "ClusterRoleBinding": RBAC + "/clusterrolebindings",
}


@dataclass
class Installed:
    """The operator of the chart, as a process that holds nothing but its ServiceAccount's token."""

    namespace: str
    name: str
    kubeconfig: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> Api:
        """The API server as the operator sees it."""
        return Api(self.kubeconfig)

    def start(self, variables: dict[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FINETUNE_")}
        environment = {**kept, **variables, "KUBECONFIG": str(self.kubeconfig)}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "finetune_operator"]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=15)


def values(place: Place, namespaces: Sequence[str]) -> Body:
    """The chart's values: storage that may be on loopback, probes on free ports, and a pace for tests."""
    liveness, metrics = _free_ports(2)
    return {
        "namespaces": list(namespaces),
        "trainer": {"lightResources": {"cpu": "100m"}},
        "operator": {
            "allowedHosts": ["127.0.0.1", "localhost"] if place.local else [],
            "leaseSeconds": 3,
            "progressInterval": 1,
            "retryBackoff": 1,
        },
        "livenessPort": liveness,
        "metricsPort": metrics,
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports


def rendered(release: str, namespace: str, given: Body) -> list[Body]:
    """Every object that the chart makes of these values."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(given, name=release, namespace=namespace)
    return [body for name, text in texts.items() if name.endswith(".yaml") for body in yaml.safe_load_all(text) if body]


@contextmanager
def installed(place: Place, namespaces: Sequence[str], folder: Path) -> Iterator[Installed]:
    """Account, roles and bindings of the chart, and its operator at work; all of it is gone afterwards.

    The Deployment is not applied: a cluster under test need not have the operator's image. The CRDs are there already.
    """
    release = f"e2e-{uuid.uuid4().hex[:6]}"
    namespace = f"{release}-system"
    objects = rendered(release, namespace, values(place, namespaces))
    (deployment,) = [body for body in objects if body["kind"] == "Deployment"]
    made: list[str] = []
    place.api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        for body in objects:
            if body["kind"] in COLLECTIONS:
                collection = COLLECTIONS[body["kind"]].format(namespace=body["metadata"].get("namespace", namespace))
                place.api.create(collection, body)
                made.append(f"{collection}/{body['metadata']['name']}")
        account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
        kubeconfig = _kubeconfig(place, namespace, account, folder / "operator.kubeconfig")
        operator = Installed(namespace, deployment["metadata"]["name"], kubeconfig, folder / "operator.log")
        try:
            operator.start(_variables(deployment, namespace))
            yield operator
        finally:
            operator.stop()
    finally:
        for path in reversed(made):
            place.api.delete(path)
        place.api.delete(f"{NAMESPACES}/{namespace}")


def _variables(deployment: Body, namespace: str) -> dict[str, str]:
    """The container's environment, with what the kubelet would fill in."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert not {"command", "args"} & set(container), "the image's own entry point is what runs"
    image = os.environ.get("FINETUNE_TRAINER_IMAGE", "finetune-trainer:latest")
    fields = {"metadata.name": f"{deployment['metadata']['name']}-0", "metadata.namespace": namespace}
    found = {
        item["name"]: item["value"] if "value" in item else fields[item["valueFrom"]["fieldRef"]["fieldPath"]]
        for item in container["env"]
    }
    # The one that the cluster has; the chart takes no tag `latest`, which is what the stand-in calls its own.
    return {**found, "FINETUNE_TRAINER_IMAGE": image, "FINETUNE_LIGHT_IMAGE": image}


def _kubeconfig(place: Place, namespace: str, account: str, path: Path) -> Path:
    """The tests' kubeconfig with the account's token in place of the administrator's credentials."""
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    accounts = COLLECTIONS["ServiceAccount"].format(namespace=namespace)
    token = wait_for(
        "a token of the operator's account",
        lambda: place.api.create(f"{accounts}/{account}/token", asked)["status"]["token"],
        15,
    )
    given = yaml.safe_load(place.kubeconfig.read_text())
    (context,) = [item["context"] for item in given["contexts"] if item["name"] == given["current-context"]]
    (cluster,) = [item for item in given["clusters"] if item["name"] == context["cluster"]]
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "contexts": [{"name": "own", "context": {"cluster": cluster["name"], "user": "own", "namespace": namespace}}],
        "current-context": "own",
        "users": [{"name": "own", "user": {"token": token}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(body))
    return path
