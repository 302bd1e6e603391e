"""A stage of two pods, as the operator makes it: they find each other by name, and one that fails ends the attempt."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
from tests.local.cluster.conftest import Bench, ending, has_condition, phase_is

from finetune_api.job import JobSpec
from finetune_api.stage import StageDocument
from finetune_local.client import JOBS, Resource
from finetune_operator.manifests import CONTAINER, Attempted, Work, stage_objects
from finetune_operator.owner import Owner
from finetune_operator.plan import PodSettings
from finetune_operator.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
SERVICES = Resource("v1", "services", "Service")

# Rank 0 listens, the others add to what it holds, and all of them learn the sum.
SUM = """
import os, socket, time
host, port = os.environ["FINETUNE_RENDEZVOUS"].split(":")
rank, nodes = int(os.environ["JOB_COMPLETION_INDEX"]), int(os.environ["FINETUNE_NODES"])
if rank == 0:
    server = socket.create_server((host, int(port)))
    peers = [server.accept()[0] for _ in range(nodes - 1)]
    total = sum(int(peer.recv(8)) for peer in peers) + 1
    for peer in peers:
        peer.sendall(str(total).encode())
else:
    for _ in range(200):
        try:
            peer = socket.create_connection((host, int(port)))
            break
        except OSError:
            time.sleep(0.05)
    peer.sendall(str(rank + 1).encode())
    total = int(peer.recv(8))
open("/dev/termination-log", "w").write(str(total))
"""
ALL_REDUCE = """
import os, torch, torch.distributed as dist
rank, nodes = int(os.environ["JOB_COMPLETION_INDEX"]), int(os.environ["FINETUNE_NODES"])
dist.init_process_group("gloo", init_method="tcp://" + os.environ["FINETUNE_RENDEZVOUS"], rank=rank, world_size=nodes)
value = torch.tensor([rank + 1.0])
dist.all_reduce(value)
dist.destroy_process_group()
open("/dev/termination-log", "w").write(str(int(value)))
"""


def objects(name: str, program: str) -> list[dict[str, Any]]:
    """The Service and the Job of a training stage of two pods that run `program` in the trainer's stead."""
    owner = Owner("default", name, f"uid-of-{name}", 1)
    storage = {"uri": "s3://out/jobs"}
    spec = JobSpec.model_validate(
        {
            "inputModel": {"modelPath": "s3://models/tiny"},
            "dataConfigs": [{"name": "train", "loadDatasetConfig": {"dataFiles": ["s3://data/train.jsonl"]}}],
            "passes": [{"name": "lora", "type": "LoRA", "config": {"trainDataConfig": "train"}}],
            "storage": storage,
        }
    )
    work = Work("lora", "LoRA", "a" * 64, PodSettings(image="local/any", nodes=2, processes_per_node=1), "")
    document = StageDocument.model_validate(
        {
            "job": {"namespace": "default", "name": name, "uid": owner.uid, "generation": 1},
            "stage": "lora",
            "type": "LoRA",
            "key": work.key,
            "attempt": "one",
            "storage": storage,
        }
    )
    made = copy.deepcopy(stage_objects(owner, work, document, Attempted(1, 1), spec, Settings(scratch_size="1Mi")))
    for item in made:
        # Its owner is not there, and the garbage collector would take it away.
        del item["metadata"]["ownerReferences"]
    (container,) = made[-1]["spec"]["template"]["spec"]["containers"]
    container |= {"command": [sys.executable, "-c", program], "args": []}
    return made


async def run(bench: Bench, name: str, program: str) -> str:
    """Create both; the Job's name."""
    service, job = objects(name, program)
    await bench.client.create(SERVICES.path("default"), service)
    created = await bench.client.create(JOBS.path("default"), job)
    return str(created["metadata"]["name"])


@pytest.mark.parametrize(
    ("name", "program"),
    [("sum", SUM), ("reduce", ALL_REDUCE)],
    ids=["sockets", "gloo"],
)
async def test_two_pods_meet_and_add_up(bench: Bench, name: str, program: str) -> None:
    job = await run(bench, name, program)
    await bench.job_when(job, "Complete", seconds=120)
    pods = await bench.pods_of(job)
    assert sorted(pod["spec"]["hostname"] for pod in pods) == [f"{job}-0", f"{job}-1"]
    assert [ending(pod)["message"] for pod in pods] == ["3", "3"]


async def test_a_rank_that_fails_ends_the_attempt(bench: Bench) -> None:
    program = "import os, sys, time; sys.exit(72) if os.environ['JOB_COMPLETION_INDEX'] == '1' else time.sleep(60)"
    job = await run(bench, "broken", program)
    failed = has_condition(await bench.job_when(job, "Failed", seconds=60), "Failed")
    assert failed is not None
    assert f"Container {CONTAINER} for pod default/{job}-1-" in failed["message"]
    assert "failed with exit code 72 matching FailJob rule at index 1" in failed["message"]


async def test_an_evicted_rank_ends_the_attempt(bench: Bench) -> None:
    job = await run(bench, "evicted", "import time; time.sleep(60)")
    pod = await bench.pod_when(f"{job}-1", phase_is("Running"), seconds=60)
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
    await bench.client.create(f"/api/v1/namespaces/default/pods/{name}/eviction", eviction)
    failed = has_condition(await bench.job_when(job, "Failed", seconds=60), "Failed")
    assert failed is not None
    assert failed["message"] == f"Pod default/{name} has condition DisruptionTarget matching FailJob rule at index 0"
