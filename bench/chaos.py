"""Kills at random instants, and looks whether the operator's promises hold all the same.

FinetuneJobs of several shapes run on the local cluster while the operator, the API server, the S3 server and stages'
processes are killed (SIGKILL) and started again. Nothing is killed but while a stage's process runs, and only once a
status was written since the last kill: each kill hits work, and there is work between them. The passes compute nothing;
their results in the store are real (`chaos_trainer.py`). What must hold is in `invariants.py`. Prints what was done,
and exits with 1 and the evidence where a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from invariants import Expectation, Observer, ends_of_all, leftovers, untrue_words

from finetune_api.crd import crd
from finetune_local.children import Command
from finetune_local.client import MERGE, ApiClient, ApiError, Object, Resource, persist, wait_ready
from finetune_local.cluster import STORAGE_SECRET, ClusterSettings, LocalCluster
from finetune_local.node.images import Image
from finetune_local.node.node import NodeSettings
from finetune_local.parts import API_SERVER

FINETUNE_JOBS = Resource("finetune.dev/v1alpha1", "finetunejobs", "FinetuneJob")
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
IMAGE = "chaos-trainer:local"
TRAINER = Path(__file__).with_name("chaos_trainer.py").resolve()
OPERATOR, S3, STAGE = "operator", "s3", "stage"
VICTIMS = {OPERATOR: 3, API_SERVER: 2, S3: 1, STAGE: 4}
# How long a part stays dead, and how long after the cluster is at work again the next one dies.
AWAY_SECONDS, PEACE_SECONDS = (0.0, 1.0), (0.0, 1.0)
# A cluster that is not at work again by then has lost it.
RECOVERY_SECONDS = 60.0
SETTLE_SECONDS = 120.0

TRAIN: Object = {"name": "lora", "type": "LoRA", "config": {"trainDataConfig": "train"}}
MERGE_PASS: Object = {"name": "merge", "type": "MergeAdapterWeights"}
BUILD: Object = {"name": "builder", "type": "ModelBuilder", "config": {"precision": "int4"}}


@dataclass(frozen=True)
class Shape:
    """A kind of job: its passes, what is done to it in the middle of its run, and how it must end."""

    name: str
    passes: tuple[Object, ...]
    phase: str = "Succeeded"
    meddle: str = ""
    model: str = ""


SHAPES = (
    Shape("edited", (TRAIN, MERGE_PASS, BUILD), meddle="edit"),
    # Jobs of this shape want the same results as each other.
    Shape("quantize", (BUILD,), model="shared"),
    Shape("suspended", (TRAIN, MERGE_PASS), meddle="suspend"),
    Shape("deleted", (TRAIN, MERGE_PASS), phase="", meddle="delete"),
    Shape("refused", (TRAIN,), phase="Failed", model="refused"),
    Shape("again", (BUILD,), model="shared"),
    Shape("adapter", (TRAIN,)),
    Shape("train", (TRAIN, MERGE_PASS, BUILD)),
)


def job(name: str, shape: Shape, endpoint: str) -> Object:
    """A FinetuneJob of this shape."""
    data = {
        "name": "train",
        "loadDatasetConfig": {"dataFiles": ["s3://finetune/data.jsonl"]},
        "preProcessDataConfig": {"textCols": ["prompt", "answer"]},
    }
    storage = {
        "uri": "s3://finetune/chaos",
        "endpoint": endpoint,
        "credentialsSecretRef": {"name": STORAGE_SECRET},
    }
    uses_data = any(item["type"] == "LoRA" for item in shape.passes)
    return {
        "apiVersion": FINETUNE_JOBS.api_version,
        "kind": FINETUNE_JOBS.kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "inputModel": {"modelPath": f"s3://finetune/{shape.model or name}"},
            **({"dataConfigs": [data]} if uses_data else {}),
            "passes": list(shape.passes),
            "storage": storage,
            # What the store's absence costs is counted; how often it is killed is chance.
            "maxAttempts": 50,
        },
    }


@dataclass
class Chaos:
    """One run, with `alive` jobs at any time."""

    cluster: LocalCluster
    numbers: random.Random
    observer: Observer
    alive: int
    kills: Counter[str] = field(default_factory=Counter)
    # How many stages ran at each kill.
    hit: list[int] = field(default_factory=list)
    jobs: list[Expectation] = field(default_factory=list)
    meddling: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def client(self) -> ApiClient:
        return self.cluster.client

    async def run(self, kills: int) -> list[str]:
        """Kill `kills` times, wait for all jobs to end, delete them; what was found wrong."""
        while self.kills.total() < kills:
            written = self.observer.written
            if self.kills:
                await self._until(lambda written=written: self.observer.written > written, "no status was written")
            await self._until(_stages, "no stage ran")
            await asyncio.sleep(self.numbers.uniform(*PEACE_SECONDS))
            await self._kill(self._victim())
        await asyncio.gather(*self.meddling)
        wrong = await ends_of_all(self.observer, self.jobs, SETTLE_SECONDS)
        wrong += untrue_words(self.observer, self.cluster.s3.folder / "buckets" / "finetune" / "chaos", self.jobs)
        for item in self.jobs:
            await self._delete(item.name)
        wrong += await leftovers(self.client, SETTLE_SECONDS)
        return [*self.observer.violations, *wrong]

    async def _keep_alive(self) -> None:
        """Start jobs until `alive` of them run."""
        while sum(not self.observer.has_ended(item) for item in self.jobs) < self.alive:
            shape = SHAPES[len(self.jobs) % len(SHAPES)]
            name = f"{shape.name}-{len(self.jobs)}"
            self.jobs.append(Expectation(name, shape.phase, {"edit": 2}.get(shape.meddle, 1)))
            await persist(lambda name=name, shape=shape: self._create(name, shape))
            if shape.meddle:
                task = asyncio.create_task(self._meddle(name, shape.meddle))
                self.meddling.add(task)

    async def _until(self, holds: Callable[[], object], otherwise: str) -> None:
        """Wait until it `holds`; jobs that end meanwhile are followed by others, or nothing would happen any more.

        Raises TimeoutError with `otherwise` after RECOVERY_SECONDS.
        """
        deadline = time.monotonic() + RECOVERY_SECONDS
        await self._keep_alive()
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise} for {RECOVERY_SECONDS:g} s")
            await asyncio.sleep(0.1)
            await self._keep_alive()

    async def _create(self, name: str, shape: Shape) -> None:
        try:
            await self.client.create(FINETUNE_JOBS.path("default"), job(name, shape, self.cluster.s3.endpoint))
        except ApiError as error:
            # The answer to an earlier try was lost, not the job.
            if error.reason != "AlreadyExists":
                raise

    async def _meddle(self, name: str, how: str) -> None:
        """Do to a job what users do, at some instant of its run."""
        await asyncio.sleep(self.numbers.uniform(1.0, 6.0))
        if how == "delete":
            await self._delete(name)
        elif how == "edit":
            # The first pass' result is kept, what follows is made anew.
            passes = [TRAIN, MERGE_PASS, {**BUILD, "config": {"precision": "fp32"}}]
            await self._patch(name, {"passes": passes})
        else:
            await self._patch(name, {"suspend": True})
            await asyncio.sleep(self.numbers.uniform(0.5, 3.0))
            await self._patch(name, {"suspend": False})

    async def _patch(self, name: str, spec: Object) -> None:
        path = FINETUNE_JOBS.path("default", name)
        await persist(lambda: self.client.patch(path, {"spec": spec}, MERGE))

    async def _delete(self, name: str) -> None:
        try:
            await persist(lambda: self.client.delete(FINETUNE_JOBS.path("default", name)))
        except ApiError as error:
            if error.status != 404:
                raise

    def _victim(self) -> str:
        return self.numbers.choices(list(VICTIMS), list(VICTIMS.values()))[0]

    async def _kill(self, victim: str) -> None:
        stages = _stages()
        if not stages:
            # They ended just now: nothing would be hit.
            return
        self.hit.append(len(stages))
        if victim == STAGE:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(self.numbers.choice(stages)).kill()
        else:
            await self.cluster.kill(victim)
            await asyncio.sleep(self.numbers.uniform(*AWAY_SECONDS))
            await self.cluster.restart(victim)
            if victim == API_SERVER:
                await wait_ready(self.client)
        self.kills[victim] += 1


def _stages() -> list[int]:
    """The processes that run a stage."""
    found: list[int] = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if str(TRAINER) in child.cmdline():
                found.append(child.pid)
    return sorted(found)


async def unleash(kills: int, seed: int, alive: int, folder: Path) -> tuple[Chaos, list[str]]:
    """One run below `folder`; it and what it found wrong."""
    environment: dict[str, Any] = {
        "FINETUNE_TRAINER_IMAGE": IMAGE,
        "FINETUNE_ALLOWED_HOSTS": "127.0.0.1",
        "FINETUNE_LIGHT_CPU": "10m",
        "FINETUNE_DEFAULT_CPU": "10m",
        "FINETUNE_PROGRESS_INTERVAL": "1",
        "FINETUNE_RETRY_BACKOFF": "0.2",
        "FINETUNE_RETRY_BACKOFF_LIMIT": "1",
        "FINETUNE_TERMINATION_GRACE": "2",
    }
    settings = ClusterSettings(
        separate=frozenset({API_SERVER}),
        persistent=True,
        pod_backoff=0.2,
        node=NodeSettings(images={IMAGE: Image(entrypoint=("python", str(TRAINER)))}),
        services=[Command(OPERATOR, [sys.executable, "-m", "finetune_operator"], environment)],
    )
    async with LocalCluster(folder, settings) as cluster:
        await cluster.client.create(CRDS.path(), crd())
        observer = Observer(cluster.client, cluster.s3.folder / "buckets" / "finetune" / "chaos")
        chaos = Chaos(cluster, random.Random(seed), observer, alive)
        working = asyncio.create_task(chaos.run(kills))
        # What watches ends by failing; so does a part of the cluster that ends though nobody killed it.
        watching = [asyncio.create_task(work) for work in (observer.run(), cluster.wait())]
        await asyncio.wait({working, *watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in watching if not working.done() else ():
            if task.done():
                working.cancel()
                task.result()
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        return chaos, working.result()


def main(arguments: list[str] | None = None) -> int:
    """Run, and print what was done and what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how often something is killed (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="of victims and instants (default: 1)")
    parser.add_argument("--alive", type=int, default=6, help="jobs at any time (default: 6)")
    parser.add_argument("--keep", type=Path, help="keep logs, objects and buckets in this folder")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        chaos, wrong = asyncio.run(unleash(given.kills, given.seed, given.alive, given.keep or Path(temporary)))
    killed = ", ".join(f"{victim} {count}" for victim, count in sorted(chaos.kills.items()))
    print(f"{chaos.kills.total()} kills ({killed}) in {time.monotonic() - begun:.0f} s, seed {given.seed}")
    print(
        f"{len(chaos.jobs)} jobs, {chaos.observer.pods} pods, {chaos.observer.manifests} results in the store; "
        f"{min(chaos.hit)} to {max(chaos.hit)} stages ran at each kill"
    )
    for violation in wrong:
        print(f"BROKEN: {violation}")
    print("every promise held" if not wrong else f"{len(wrong)} promises were broken")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
