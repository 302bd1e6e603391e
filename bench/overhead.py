"""The operator's own overhead: from the event that a stage's Job is complete to the POST of the next Job.

FinetuneJobs with eight stages run on the local cluster with a trainer that computes nothing. A watcher notes when
it hears that a Job is complete, and when it hears of the next one; both come over the same connection, so that the
difference is the operator's. Prints median and p99, and exits with 1 where p99 is a second or more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.crd import crd
from finetune_local.children import Command
from finetune_local.client import JOBS, ApiClient, Object, Resource
from finetune_local.cluster import ClusterSettings, LocalCluster
from finetune_local.node.images import Image
from finetune_local.node.node import NodeSettings

IMAGE = "noop-trainer:local"
FINETUNE_JOBS = Resource("finetune.dev/v1alpha1", "finetunejobs", "FinetuneJob")
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
GOAL_SECONDS = 1.0


def job(name: str) -> Object:
    """A FinetuneJob of nine stages: prepare, three passes and four evaluations, publish."""
    data = {
        "name": "train",
        "loadDatasetConfig": {"dataFiles": ["s3://bucket/data.jsonl"]},
        "preProcessDataConfig": {"textCols": ["prompt", "answer"]},
    }
    metric = {"name": "accuracy", "type": "accuracy", "dataConfig": "train"}
    passes: list[dict[str, Any]] = [
        {"name": "lora", "type": "LoRA", "config": {"trainDataConfig": "train"}, "evaluator": "test"},
        {"name": "merge", "type": "MergeAdapterWeights", "evaluator": "test"},
        {"name": "builder", "type": "ModelBuilder", "config": {"precision": "int4"}},
    ]
    return {
        "apiVersion": FINETUNE_JOBS.api_version,
        "kind": FINETUNE_JOBS.kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "inputModel": {"modelPath": "s3://bucket/model"},
            "dataConfigs": [data],
            "passes": passes,
            "evaluators": [{"name": "test", "metrics": [metric]}],
            "engine": {"evaluator": "test"},
            "storage": {"uri": "s3://bucket/out"},
        },
    }


@dataclass
class Watcher:
    """Pairs each completion with the next Job of the same FinetuneJob."""

    completed: dict[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    latencies: list[float] = field(default_factory=list)

    def take(self, kind: str, item: Object) -> None:
        """One event of the watch on Jobs."""
        now, meta = time.perf_counter(), item["metadata"]
        owner = (meta.get("labels") or {}).get("finetune.dev/job", "")
        if meta["uid"] not in self.seen and kind == "ADDED":
            self.seen.add(meta["uid"])
            if owner in self.completed:
                self.latencies.append(now - self.completed.pop(owner))
        conditions = (item.get("status") or {}).get("conditions") or []
        complete = any(c["type"] == "Complete" and c["status"] == "True" for c in conditions)
        if complete and meta["uid"] not in self.done:
            self.done.add(meta["uid"])
            self.completed[owner] = now


async def measure(changes: int) -> list[float]:
    """Run jobs one after the other until `changes` stage changes were seen; seconds of each."""
    noop = Image(entrypoint=("python", str(Path(__file__).with_name("noop_trainer.py").resolve())))
    settings = {"FINETUNE_TRAINER_IMAGE": IMAGE, "FINETUNE_LIGHT_CPU": "10m", "FINETUNE_DEFAULT_CPU": "100m"}
    operator = Command("operator", [sys.executable, "-m", "finetune_operator"], settings)
    cluster_settings = ClusterSettings(node=NodeSettings(images={IMAGE: noop}), services=[operator])
    watcher = Watcher()
    with tempfile.TemporaryDirectory() as folder:
        async with LocalCluster(Path(folder), cluster_settings) as cluster:
            await cluster.client.create(CRDS.path(), crd())
            following = asyncio.create_task(_follow(cluster.client, watcher))
            number = 0
            while len(watcher.latencies) < changes:
                number += 1
                await _run(cluster.client, f"job-{number}")
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
    return watcher.latencies[:changes]


async def _follow(client: ApiClient, watcher: Watcher) -> None:
    version = (await client.get(JOBS.path()))["metadata"]["resourceVersion"]
    async for kind, item in client.watch(JOBS.path(), version):
        if kind != "BOOKMARK":
            watcher.take(kind, item)


async def _run(client: ApiClient, name: str) -> None:
    await client.create(FINETUNE_JOBS.path("default"), job(name))
    for _ in range(600):
        status = (await client.get(FINETUNE_JOBS.path("default", name))).get("status") or {}
        if status.get("phase") == "Succeeded":
            return
        if status.get("phase") == "Failed":
            raise RuntimeError(f"{name} failed: {status.get('message')}")
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{name} did not end within a minute: {status.get('message')}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--changes", type=int, default=50, help="stage changes to measure (default: 50)")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    latencies = asyncio.run(measure(arguments.changes))
    median, p99 = statistics.median(latencies), statistics.quantiles(latencies, n=100, method="inclusive")[98]
    print(f"from a Job's completion to the next Job, over {len(latencies)} stage changes on {os.cpu_count()} cores:")
    print(f"median {median * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, most {max(latencies) * 1000:.0f} ms")
    print(f"goal: p99 under {GOAL_SECONDS * 1000:.0f} ms: {'met' if p99 < GOAL_SECONDS else 'MISSED'}")
    return 0 if p99 < GOAL_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
