"""The chart on the tests' cluster: its account and rights as they are, its Deployment's pods as processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import helm_python
import yaml

from .api import NAMESPACES, PATIENCE, Api, Body, wait_for
from .places import Place

CHART = Path(__file__).parents[2] / "helm/finetune-operator"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
COLLECTIONS = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "Role": RBAC + "/namespaces/{namespace}/roles",
    "RoleBinding": RBAC + "/namespaces/{namespace}/rolebindings",
    "ClusterRole": RBAC + "/clusterroles",
    "ClusterRoleBinding": RBAC + "/clusterrolebindings",
    "ValidatingAdmissionPolicy": ADMISSION + "/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": ADMISSION + "/validatingadmissionpolicybindings",
}
# The CRDs are there already; a cluster under test need not have the operator's image.
NOT_APPLIED = {"CustomResourceDefinition", "Deployment"}
PORTS = ("FINETUNE_LIVENESS_PORT", "FINETUNE_METRICS_PORT")


class Replica:
    """One pod of the Deployment, as a process. Like a kubelet, it starts anew what ends by itself."""

    def __init__(self, variables: dict[str, str], kubeconfig: Path, log: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FINETUNE_")}
        self._environment = {**kept, **variables, "KUBECONFIG": str(kubeconfig)}
        self._log = log
        self._stopping = threading.Event()
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def terminate(self) -> None:
        """SIGTERM, as a pod that is deleted gets it."""
        self._stopping.set()
        self._process.terminate()

    def wait(self) -> None:
        """Return once it has ended."""
        self._process.wait(timeout=20 * PATIENCE)
        self._keeper.join(timeout=20 * PATIENCE)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "finetune_operator"]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if self._stopping.wait(1):
                return
            self._process = self._start()


@dataclass
class Installed:
    """A release of the chart: its objects in the cluster, its operator holding its ServiceAccount's token alone."""

    place: Place
    release: str
    namespace: str
    kubeconfig: Path
    log: Path
    replicas: list[Replica] = field(default_factory=list)
    made: list[str] = field(default_factory=list)

    @property
    def api(self) -> Api:
        """The API server as the operator sees it."""
        return Api(self.kubeconfig)

    def apply(self, values: Body) -> None:
        """Install, or upgrade to, what the chart makes of `values`; old replicas end once the new ones are there."""
        objects = rendered(self.release, self.namespace, values)
        for body in objects:
            if body["kind"] not in NOT_APPLIED:
                self._put(body)
        (deployment,) = [body for body in objects if body["kind"] == "Deployment"]
        if not self.kubeconfig.exists():
            account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
            _kubeconfig(self.place, self.namespace, account, self.kubeconfig)
        old, self.replicas = self.replicas, []
        for number in range(deployment["spec"]["replicas"]):
            self.replicas.append(Replica(_variables(deployment, self.namespace, number), self.kubeconfig, self.log))
        _stop(old)

    def remove(self) -> None:
        """Stop the replicas, and take everything out of the cluster again."""
        _stop(self.replicas)
        for path in reversed(self.made):
            self.place.api.delete(path)
        self.place.api.delete(f"{NAMESPACES}/{self.namespace}")

    def _put(self, body: Body) -> None:
        """Apply one object as a client does that owns all of it."""
        collection = COLLECTIONS[body["kind"]].format(namespace=body["metadata"].get("namespace", self.namespace))
        path = f"{collection}/{body['metadata']['name']}"
        self.place.api.apply(path, body)
        if path not in self.made:
            self.made.append(path)


def _stop(replicas: Sequence[Replica]) -> None:
    for replica in replicas:
        replica.terminate()
    for replica in replicas:
        replica.wait()


def values(place: Place, namespaces: Sequence[str]) -> Body:
    """The chart's values: storage that may be on loopback, and a pace for tests. `namespaces` empty: all."""
    return {
        "namespaces": list(namespaces),
        "trainer": {"lightResources": {"cpu": "100m"}, "pullPolicy": "IfNotPresent"},
        "operator": {
            "allowedHosts": ["127.0.0.1", "localhost"] if place.local else [],
            "leaseSeconds": 6,
            "progressInterval": 1,
            "retryBackoff": 1,
        },
    }


def rendered(release: str, namespace: str, given: Body) -> list[Body]:
    """Every object that the chart makes of these values."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(given, name=release, namespace=namespace)
    return [body for name, text in texts.items() if name.endswith(".yaml") for body in yaml.safe_load_all(text) if body]


@contextmanager
def installed(place: Place, namespaces: Sequence[str], folder: Path) -> Iterator[Installed]:
    """A release with its operator at work; all of it is gone afterwards."""
    release = f"e2e-{uuid.uuid4().hex[:6]}"
    found = Installed(place, release, f"{release}-system", folder / "operator.kubeconfig", folder / "operator.log")
    place.api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": found.namespace}})
    try:
        found.apply(values(place, namespaces))
        yield found
    finally:
        found.remove()


def _variables(deployment: Body, namespace: str, number: int) -> dict[str, str]:
    """The container's environment, with what the kubelet would fill in.

    Its ports are free ones: the processes share this machine's, where pods have addresses of their own.
    """
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert not {"command", "args"} & set(container), "the image's own entry point is what runs"
    image = os.environ.get("FINETUNE_TRAINER_IMAGE", "finetune-trainer:latest")
    fields = {"metadata.name": f"{deployment['metadata']['name']}-{number}", "metadata.namespace": namespace}
    found = {
        item["name"]: item["value"] if "value" in item else fields[item["valueFrom"]["fieldRef"]["fieldPath"]]
        for item in container["env"]
    }
    ports = dict(zip(PORTS, map(str, _free_ports(len(PORTS))), strict=True))
    # The one that the cluster has; the chart takes no tag `latest`, which is what the stand-in calls its own.
    return {**found, **ports, "FINETUNE_TRAINER_IMAGE": image, "FINETUNE_LIGHT_IMAGE": image}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports


def _kubeconfig(place: Place, namespace: str, account: str, path: Path) -> None:
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
