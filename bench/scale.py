"""What the operator costs with many jobs at once, and how fast it is then.

N FinetuneJobs of three passes (five stages with prepare and publish) live at the same time in twenty namespaces of
a local API server. The operator is the real one, a process of its own; the cluster's nodes are a stand-in that runs
nothing (`kubelet.py`). Stages take so long that the cluster as a whole ends `--rate` of them a second, whatever N is.

Prints the operator's largest RSS, its CPU seconds, its API requests by verb and its status writes per job (from its
own metrics), and the time from the event that a Job is complete to the next Job; then the cost per job at N/10 and
at N. Exits with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
from kubelet import Kubelet, spread
from overhead import CRDS, FINETUNE_JOBS, Watcher, job
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.crd import crd
from finetune_local.children import Child, Command, inherited
from finetune_local.client import NAMESPACES, ApiClient, Object, wait_ready
from finetune_local.cluster import kubeconfig
from finetune_local.informer import Informer
from finetune_local.node.node import NodeSettings
from finetune_local.parts import API_SERVER, PartSettings, command
from finetune_local.processes import Watchdog, new_family
from finetune_local.s3 import free_port

NAMESPACE_COUNT = 20
STAGES = 5
GOAL_P99_SECONDS, GOAL_REQUESTS, GOAL_RSS_MIB, GOAL_RATIO = 1.0, 25.0, 300.0, 1.2
SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Figures:
    """What one run of `jobs` jobs showed; the last four of them per job."""

    jobs: int
    seconds: float
    most_alive: int
    rss_mib: float
    latencies: list[float]
    cpu_seconds: float
    requests: dict[str, float]
    refused: float
    status_writes: float

    @property
    def all_requests(self) -> float:
        """API requests per job; the lists beside the watches come every five minutes, however many jobs there are."""
        return sum(count for verb, count in self.requests.items() if verb != "LIST")

    @property
    def p99(self) -> float:
        """Seconds from a completion to the next Job."""
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[98]


class Census:
    """Who lives and who has ended, from a watch on all FinetuneJobs."""

    def __init__(self) -> None:
        self.phases: dict[str, str] = {}
        self.most_alive = 0

    def heard(self, _: str, item: Object) -> None:
        """One change of a FinetuneJob."""
        self.phases[item["metadata"]["uid"]] = (item.get("status") or {}).get("phase", "Pending")
        self.most_alive = max(self.most_alive, len(self.phases) - self.ended("Succeeded") - self.ended("Failed"))

    def ended(self, phase: str) -> int:
        """How many jobs are in a final `phase`."""
        return Counter(self.phases.values())[phase]


@asynccontextmanager
async def _cluster(folder: Path) -> AsyncIterator[tuple[ApiClient, Child, int]]:
    """An API server and the operator, each its own process; the operator's metrics port."""
    settings = PartSettings(port=free_port(), state=folder, persistent=False, pod_backoff=1.0, node=NodeSettings())
    family, metrics_port = new_family(), free_port()
    config = folder / "kubeconfig"
    environment = inherited(
        KUBECONFIG=str(config),
        FINETUNE_METRICS_PORT=str(metrics_port),
        # No progress: how often it is read is a setting of its own.
        FINETUNE_PROGRESS_INTERVAL="100000",
    )
    async with Watchdog(family), ApiClient(settings.url) as client:
        server = Child(command(API_SERVER, settings), folder / "apiserver.log", family)
        words = [sys.executable, "-m", "finetune_operator"]
        operator = Child(Command("operator", words, environment), folder / "operator.log", family)
        await server.start()
        await wait_ready(client)
        await client.create(CRDS.path(), crd())
        config.write_text(json.dumps(kubeconfig(settings.url)))
        await operator.start()
        try:
            yield client, operator, metrics_port
        finally:
            await operator.stop()
            await server.stop()


async def measure(jobs: int, rate: float, seed: int, changes: int = 0) -> Figures:
    """Run `jobs` jobs, all at once: to their end, or until `changes` stages were followed by another."""
    loop, watcher, census = asyncio.get_running_loop(), Watcher(), Census()
    with tempfile.TemporaryDirectory() as folder:
        async with _cluster(Path(folder)) as (client, operator, port):
            kubelet = Kubelet(client, spread(jobs / rate, seed), watcher.take)
            following = Informer(client, FINETUNE_JOBS, census.heard)
            tasks = [asyncio.create_task(work) for work in (kubelet.run(), following.run())]
            await _scraped(port)
            process, begun = psutil.Process(operator.pid), loop.time()
            cpu_before = _cpu(process)
            await _create(client, jobs)
            enough = (
                (lambda: len(watcher.latencies) >= changes) if changes else lambda: census.ended("Succeeded") >= jobs
            )
            rss = await _until(enough, census, kubelet, process)
            figures = await _figures(jobs, loop.time() - begun, census, watcher, _cpu(process) - cpu_before, rss, port)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return figures


async def _create(client: ApiClient, jobs: int) -> None:
    """The jobs, as fast as the API server takes them."""
    for number in range(NAMESPACE_COUNT):
        name = f"team-{number}"
        await client.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for number in range(jobs):
        namespace = f"team-{number % NAMESPACE_COUNT}"
        await client.create(FINETUNE_JOBS.path(namespace), three_stages(f"job-{number}", namespace))


def three_stages(name: str, namespace: str) -> Object:
    """A FinetuneJob of three passes without evaluation."""
    body = job(name)
    body["metadata"]["namespace"] = namespace
    spec = body["spec"]
    spec["passes"] = [{key: value for key, value in item.items() if key != "evaluator"} for item in spec["passes"]]
    for unused in ("evaluators", "engine"):
        del spec[unused]
    return body


async def _until(enough: Callable[[], bool], census: Census, kubelet: Kubelet, process: psutil.Process) -> float:
    """Wait until there is `enough`; the largest RSS seen, in MiB. Raises RuntimeError where a job fails."""
    most = 0.0
    while not enough():
        most = max(most, process.memory_info().rss / 2**20)
        if census.ended("Failed") or kubelet.failures():
            raise RuntimeError(f"{census.ended('Failed')} jobs failed; {kubelet.failures()[:3]}")
        await asyncio.sleep(SAMPLE_SECONDS)
    return most


async def _figures(
    jobs: int, seconds: float, census: Census, watcher: Watcher, cpu: float, rss: float, port: int
) -> Figures:
    # Events are posted after the status that they tell of.
    await asyncio.sleep(2)
    samples = await _scraped(port)
    requests: Counter[str] = Counter()
    refused = 0.0
    for (name, labels), value in samples.items():
        if name == "finetune_api_requests_total":
            words = dict(labels)
            requests[words["verb"]] += value
            refused += value if int(words["code"]) >= 400 else 0
    writes = samples.get(("finetune_status_writes_total", (("outcome", "written"),)), 0.0)
    return Figures(
        jobs=jobs,
        seconds=seconds,
        most_alive=census.most_alive,
        rss_mib=rss,
        latencies=watcher.latencies,
        cpu_seconds=cpu / jobs,
        requests={verb: count / jobs for verb, count in sorted(requests.items())},
        refused=refused / jobs,
        status_writes=writes / jobs,
    )


async def _scraped(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The operator's metrics, once it answers."""
    async with aiohttp.ClientSession() as session:
        for _ in range(300):
            with suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                    text = await response.text()
                families = text_string_to_metric_families(text)
                return {
                    (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                    for family in families
                    for sample in family.samples
                }
            await asyncio.sleep(0.1)
    raise TimeoutError("the operator's metrics did not come up within half a minute")


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def show(figures: Figures) -> None:
    """The figures of one run."""
    verbs = ", ".join(f"{verb} {count:.1f}" for verb, count in figures.requests.items())
    print(f"{figures.jobs} jobs of {STAGES} stages, {figures.most_alive} alive at once, {figures.seconds:.0f} s:")
    print(f"  operator: {figures.rss_mib:.0f} MiB RSS at most, {figures.cpu_seconds * 1000:.0f} ms CPU per job")
    print(f"  API requests per job: {figures.all_requests:.1f} ({verbs}), {figures.refused:.2f} of them refused")
    print(f"  status writes per job: {figures.status_writes:.1f}")
    show_latencies(figures)


def show_latencies(figures: Figures) -> None:
    """How fast the operator was."""
    median = statistics.median(figures.latencies)
    print(
        f"  from a Job's completion to the next Job, {len(figures.latencies)} times: median {median * 1000:.0f} ms, "
        f"p99 {figures.p99 * 1000:.0f} ms, most {max(figures.latencies) * 1000:.0f} ms"
    )


def judge(few: Figures, many: Figures) -> bool:
    """Print each goal and whether it is met; whether all are."""
    ratio = many.cpu_seconds / few.cpu_seconds
    rows: list[tuple[str, float, float, str]] = [
        ("p99 from completion to the next Job", many.p99, GOAL_P99_SECONDS, "s"),
        ("API requests per job", many.all_requests, GOAL_REQUESTS, ""),
        ("RSS", many.rss_mib, GOAL_RSS_MIB, "MiB"),
        (f"CPU per job at {many.jobs} jobs / at {few.jobs}", ratio, GOAL_RATIO, ""),
    ]
    for name, value, goal, unit in rows:
        print(f"goal: {name} at most {goal:g} {unit}: {value:.2f} {unit}, {'met' if value <= goal else 'MISSED'}")
    return all(value <= goal for _, value, goal, _ in rows)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000, help="jobs that live at once (default: 1000)")
    parser.add_argument("--rate", type=float, default=8.0, help="stages that end per second (default: 8)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--changes", type=int, default=0, help="only the latencies, of so many changes of stage")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.changes:
        found = asyncio.run(measure(given.jobs, given.rate, given.seed, given.changes))
        print(f"{found.most_alive} jobs alive at once, {found.rss_mib:.0f} MiB RSS at most")
        show_latencies(found)
        return 0 if found.p99 < GOAL_P99_SECONDS else 1
    runs: list[Figures] = []
    for jobs in (max(10, given.jobs // 10), given.jobs):
        runs.append(asyncio.run(measure(jobs, given.rate, given.seed)))
        show(runs[-1])
    return 0 if judge(*runs) else 1


if __name__ == "__main__":
    sys.exit(main())
