"""A local cluster whose stages compute nothing, and operators on it as processes of their own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.crd import crd
from finetune_local.children import Child, Command, inherited
from finetune_local.client import ApiClient, ApiError, Object, Resource
from finetune_local.cluster import ClusterSettings, LocalCluster, kubeconfig
from finetune_local.node.images import Image
from finetune_local.node.node import NodeSettings
from finetune_local.processes import new_family
from finetune_local.s3 import free_port
from finetune_operator.permissions import PERMISSIONS, Permission, Where

IMAGE = "noop-trainer:local"
TRAINER = Path(__file__).parents[3] / "bench" / "noop_trainer.py"
RBAC = "rbac.authorization.k8s.io/v1"
FINETUNE_JOBS = Resource("finetune.dev/v1alpha1", "finetunejobs", "FinetuneJob")
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
OWN = "finetune-system"
LEASE = "finetune-operator"


def job(name: str, namespace: str) -> Object:
    """A FinetuneJob of three stages: prepare, one pass, publish."""
    return {
        "apiVersion": FINETUNE_JOBS.api_version,
        "kind": FINETUNE_JOBS.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "inputModel": {"modelPath": "s3://bucket/model"},
            "passes": [{"name": "builder", "type": "ModelBuilder", "config": {"precision": "int4"}}],
            "storage": {"uri": "s3://bucket/out"},
        },
    }


@dataclass
class Operator:
    """One operator process, and what it says of itself."""

    child: Child
    log: Path
    probes: str
    metrics: str

    async def kill(self) -> None:
        """SIGKILL: no time for a last word."""
        await self.child.kill()

    async def probe(self, path: str) -> tuple[int, str]:
        """Status and words of a probe; 0 where nobody answers."""
        async with aiohttp.ClientSession() as session:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{self.probes}{path}") as response:
                    return response.status, await response.text()
        return 0, ""

    async def requests(self) -> dict[tuple[str, str], float]:
        """How many requests it made, by verb and code."""
        async with aiohttp.ClientSession() as session, session.get(self.metrics) as response:
            text = await response.text()
        return {
            (sample.labels["verb"], sample.labels["code"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "finetune_api_requests_total"
        }


@dataclass
class Stand:
    """A cluster, and ways to put operators and jobs onto it."""

    cluster: LocalCluster
    folder: Path
    operators: list[Operator] = field(default_factory=list)

    @property
    def client(self) -> ApiClient:
        return self.cluster.client

    async def namespace(self, name: str) -> str:
        await self.cluster.add_namespace(name)
        return name

    async def operator(self, config: Path, **settings: str) -> Operator:
        """An operator with this kubeconfig, ready to work; `settings` are FINETUNE_<NAME>."""
        probes, metrics = free_port(), free_port()
        environment = {
            "KUBECONFIG": str(config),
            "FINETUNE_TRAINER_IMAGE": IMAGE,
            "FINETUNE_LIGHT_CPU": "10m",
            "FINETUNE_DEFAULT_CPU": "10m",
            "FINETUNE_LIVENESS_PORT": str(probes),
            "FINETUNE_METRICS_PORT": str(metrics),
            "FINETUNE_LOG_FORMAT": "json",
            **{f"FINETUNE_{name.upper()}": value for name, value in settings.items()},
        }
        log = self.folder / f"operator-{len(self.operators)}.log"
        child = Child(
            Command("operator", [sys.executable, "-m", "finetune_operator"], inherited(**environment)),
            log,
            new_family(),
        )
        await child.start()
        found = Operator(child, log, f"http://127.0.0.1:{probes}", f"http://127.0.0.1:{metrics}/metrics")
        self.operators.append(found)
        await wait_for(lambda: found.probe("/readyz"), lambda answer: answer[0] == 200, log)
        return found

    async def account(self, *permitted: tuple[Permission, str]) -> Path:
        """A kubeconfig of a new service account that may do this, each in its namespace (empty: everywhere)."""
        name = f"operator-{len(self.operators)}"
        with suppress(ApiError):
            await self.cluster.add_namespace(OWN)
        accounts = f"/api/v1/namespaces/{OWN}/serviceaccounts"
        await self.client.create(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
        for number, (permission, namespace) in enumerate(permitted):
            await self._grant(f"{name}-{number}", name, rule(permission), namespace)
        answer = await self.client.create(
            f"{accounts}/{name}/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        )
        config = kubeconfig(self.cluster.url)
        config["users"][0]["user"] = {"token": answer["status"]["token"]}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    async def _grant(self, name: str, account: str, granted: Object, namespace: str) -> None:
        kind = "Role" if namespace else "ClusterRole"
        folder = f"/apis/{RBAC}/namespaces/{namespace}" if namespace else f"/apis/{RBAC}"
        meta = {"name": name}
        await self.client.create(
            f"{folder}/{kind.lower()}s", {"apiVersion": RBAC, "kind": kind, "metadata": meta, "rules": [granted]}
        )
        binding = {
            "apiVersion": RBAC,
            "kind": f"{kind}Binding",
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": OWN}],
        }
        await self.client.create(f"{folder}/{kind.lower()}bindings", binding)

    async def apply(self, name: str, namespace: str) -> None:
        await self.client.create(FINETUNE_JOBS.path(namespace), job(name, namespace))

    async def status(self, name: str, namespace: str) -> Object:
        found: Object = (await self.client.get(FINETUNE_JOBS.path(namespace, name))).get("status") or {}
        return found

    async def succeeded(self, name: str, namespace: str, seconds: float = 60) -> Object:
        """The job's status once it has succeeded."""
        return await wait_for(
            lambda: self.status(name, namespace),
            lambda status: status.get("phase") == "Succeeded",
            self.operators[-1].log,
            seconds,
        )


async def wait_for(look: Callable[[], Any], good: Callable[[Any], bool], log: Path, seconds: float = 60) -> Any:
    """What `look` gives once it is `good`; fails with the end of `log`."""
    last: Any = None
    try:
        async with asyncio.timeout(seconds):
            while not good(last := await look()):  # noqa: ASYNC110  (what is waited for is not ours to signal)
                await asyncio.sleep(0.05)
    except TimeoutError:
        words = await asyncio.to_thread(log.read_text)
        raise AssertionError(f"not within {seconds} s; last: {last}\n{words[-3000:]}") from None
    return last


def rule(permission: Permission) -> Object:
    """`permission` as RBAC writes it."""
    names = {"resourceNames": [LEASE]} if permission.the_lease_only else {}
    return {
        "apiGroups": [permission.group],
        "resources": [permission.resource],
        "verbs": list(permission.verbs),
        **names,
    }


def permissions(namespaces: Iterable[str] = ()) -> list[tuple[Permission, str]]:
    """Each permission of an operator for these namespaces (none: all), with where it holds."""
    listed = list(namespaces)
    places = {
        Where.CLUSTER: [""],
        Where.JOBS: listed or [""],
        Where.OWN: [OWN],
    }
    return [(item, namespace) for item in PERMISSIONS for namespace in places[item.where]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """One cluster for all tests of a module; each stops its operators."""
    folder = tmp_path_factory.mktemp("stand")
    node = NodeSettings(images={IMAGE: Image(entrypoint=("python", str(TRAINER)))})
    async with LocalCluster(folder / "state", ClusterSettings(node=node)) as cluster:
        await cluster.client.create(CRDS.path(), crd())
        yield Stand(cluster, folder)


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _operators_end(stand: Stand) -> AsyncIterator[None]:
    yield
    for operator in stand.operators:
        if not operator.child.ended:
            await operator.child.stop()
