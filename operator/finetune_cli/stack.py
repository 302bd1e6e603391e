"""The local cluster with the operator on it: what every command that runs something stands on."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from finetune_api.crd import crd
from finetune_api.policy_crd import policy_crd
from finetune_api.storage import Storage
from finetune_cli.apply import CRDS, apply
from finetune_cli.bucket import Bucket
from finetune_cli.errors import environment
from finetune_cli.localise import LocalStorage
from finetune_local.children import ChildError, Command
from finetune_local.client import ApiClient
from finetune_local.cluster import BUCKET, STORAGE_SECRET, ClusterSettings, LocalCluster

Result = TypeVar("Result")

API_PORT = 16443
# One machine, one user: progress is wanted at once, and a retry need not wait for anybody else's trouble to pass.
OPERATOR_SETTINGS = {
    "FINETUNE_TRAINER_IMAGE": "finetune-trainer:latest",
    "FINETUNE_PROGRESS_INTERVAL": "0.5",
    "FINETUNE_RETRY_BACKOFF": "1",
    "FINETUNE_LIGHT_CPU": "100m",
    "FINETUNE_TERMINATION_GRACE": "10",
    # The local cluster's storage is on loopback, where no job of a real cluster may reach.
    "FINETUNE_ALLOWED_HOSTS": "127.0.0.1,localhost",
}


@dataclass(frozen=True)
class Stack:
    """A local cluster that is up and knows FinetuneJobs, its storage, and how long it took to start."""

    cluster: LocalCluster
    storage: LocalStorage
    bucket: Bucket
    startup_seconds: float

    @property
    def client(self) -> ApiClient:
        """A client of the cluster's API server."""
        return self.cluster.client

    @property
    def kubeconfig(self) -> Path:
        """The file that KUBECONFIG must name."""
        return self.cluster.kubeconfig

    async def ensure_namespace(self, name: str) -> None:
        """Make the namespace, and in it the Secret with the storage's keys, where they are missing."""
        if name != "default":
            await self.cluster.add_namespace(name)

    async def while_up(self, work: Coroutine[Any, Any, Result]) -> Result:
        """`work`'s result. Raises CliError as soon as a part of the cluster, or the operator, ends by itself."""
        working, watching = asyncio.create_task(work), asyncio.create_task(self.cluster.wait())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await watching
            return await working
        except ChildError as error:
            raise environment(f"the local cluster broke down: {error}") from error
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)


@asynccontextmanager
async def local_stack(
    state: Path, *, api_port: int = 0, s3_port: int = 0, persistent: bool = False, operator: bool = True
) -> AsyncIterator[Stack]:
    """A local cluster below `state`, stopped afterwards. Ports of 0 are free ones; `persistent` keeps its objects.

    Raises CliError where it cannot start.
    """
    started = time.monotonic()
    services = [Command("operator", [sys.executable, "-m", "finetune_operator"], OPERATOR_SETTINGS)] if operator else []
    settings = ClusterSettings(port=api_port, s3_port=s3_port, persistent=persistent, services=services)
    cluster = LocalCluster(state, settings)
    try:
        await cluster.__aenter__()
    except (ChildError, OSError) as error:
        raise environment(f"the local cluster did not start: {error}") from error
    try:
        for definition in (crd(), policy_crd()):
            await apply(cluster.client, definition, CRDS)
        yield _stack(cluster, time.monotonic() - started)
    finally:
        await cluster.stop()


def _stack(cluster: LocalCluster, seconds: float) -> Stack:
    uri, endpoint = f"s3://{BUCKET}", cluster.s3.endpoint
    keys = cluster.s3.credentials
    credentials = {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
    bucket = Bucket(Storage(uri=uri, endpoint=endpoint), credentials)
    return Stack(cluster, LocalStorage(uri, endpoint, STORAGE_SECRET), bucket, seconds)
