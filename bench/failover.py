"""How long nobody leads: from a leader's end to the standby's first status of a new job, with the default Lease.

Two operators run on the local cluster. Again and again the one that leads is killed (SIGKILL) or told to end (SIGTERM)
and started anew, and a FinetuneJob is made at the same instant. Prints the seconds until each has a status, and exits
with 1 where one took FAIL_OVER_SECONDS or more.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from overhead import CRDS, FINETUNE_JOBS, job

from finetune_api.crd import crd
from finetune_local.children import Command
from finetune_local.client import ApiError, Resource
from finetune_local.cluster import ClusterSettings, LocalCluster
from finetune_operator.settings import Settings

LEASES = Resource("coordination.k8s.io/v1", "leases", "Lease")
LEASE, OWN = "finetune-operator", "finetune-system"
OPERATORS = ("operator-a", "operator-b")
FAIL_OVER_SECONDS = 20.0


def operator(name: str) -> Command:
    """One of the replicas. POD_NAME is what the Lease says of its holder."""
    environment = {"POD_NAME": name, "FINETUNE_LEASE": LEASE, "FINETUNE_NAMESPACE": OWN}
    return Command(name, [sys.executable, "-m", "finetune_operator"], environment)


async def leader(cluster: LocalCluster) -> str:
    """The replica that holds the Lease."""
    while True:
        try:
            lease = await cluster.client.get(LEASES.path(OWN, LEASE))
        except ApiError as error:
            if error.status != 404:
                raise
            lease = {}
        holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
        for name in OPERATORS:
            if holder.startswith(name):
                return name
        await asyncio.sleep(0.05)


async def served(cluster: LocalCluster, name: str) -> None:
    """Return once the job has a status."""
    while not (await cluster.client.get(FINETUNE_JOBS.path("default", name))).get("status"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def fail_over(cluster: LocalCluster, number: int, *, kill: bool) -> float:
    """End the leader; seconds until a job that is made at that instant is seen to."""
    leading, name = await leader(cluster), f"{'killed' if kill else 'ended'}-{number}"
    begun = time.monotonic()
    ending = asyncio.create_task(cluster.kill(leading) if kill else cluster.restart(leading))
    await cluster.client.create(FINETUNE_JOBS.path("default"), job(name))
    await served(cluster, name)
    seconds = time.monotonic() - begun
    await ending
    if kill:
        await cluster.restart(leading)
    return seconds


async def measure(times: int) -> dict[str, list[float]]:
    """Seconds of each fail-over, by the signal that caused it."""
    found: dict[str, list[float]] = {"SIGTERM": [], "SIGKILL": []}
    settings = ClusterSettings(services=[operator(name) for name in OPERATORS])
    with tempfile.TemporaryDirectory() as folder:
        async with LocalCluster(Path(folder), settings) as cluster:
            await cluster.client.create(CRDS.path(), crd())
            await cluster.add_namespace(OWN)
            for number in range(times):
                for signal, seconds in found.items():
                    await leader(cluster)
                    # Whoever was started last has to be there before it can take over.
                    await asyncio.sleep(5)
                    seconds.append(await fail_over(cluster, number, kill=signal == "SIGKILL"))
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5, help="fail-overs by each signal (default: 5)")
    found = asyncio.run(measure(parser.parse_args().times))
    print(
        f"two replicas, a Lease of {Settings().lease_seconds} s; from the leader's end to the standby's first status:"
    )
    for signal, seconds in found.items():
        row = ", ".join(f"{each:.1f}" for each in seconds)
        print(f"{signal}: median {statistics.median(seconds):.1f} s, most {max(seconds):.1f} s ({row})")
    met = max(map(max, found.values())) < FAIL_OVER_SECONDS
    print(f"goal: under {FAIL_OVER_SECONDS:g} s: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
