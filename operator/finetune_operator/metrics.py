"""Prometheus metrics. Labels name namespaces, phases, types and reasons, never jobs: their number is bounded."""

from __future__ import annotations

from collections import Counter as Count
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api.status import StageState, StageStatus, Status
from finetune_operator.times import parse_time

_STAGE_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 48 * 3600)
_ENDED = (StageState.SUCCEEDED, StageState.FAILED)


class Metrics:
    """What an operator process counts."""

    def __init__(self, queue_depth: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self._namespaces: _Namespaces | None = None
        self.stage_seconds = Histogram(
            "finetune_stage_duration_seconds",
            "From a stage's first attempt to its end.",
            ["type", "outcome"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self.wait_seconds = Histogram(
            "finetune_stage_wait_seconds",
            "From an attempt's Job to its running pod: in a queue, for a node, for an image.",
            ["type"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self.attempts = Counter(
            "finetune_stage_attempts_total",
            "Attempts that ended, by how: Succeeded, or the reason of their failure.",
            ["reason"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "finetune_reconcile_duration_seconds", "One look at one job.", registry=self.registry
        )
        depth = Gauge("finetune_queue_depth", "Jobs that wait for a look.", registry=self.registry)
        depth.set_function(queue_depth)
        self._requests = Counter(
            "finetune_api_requests_total", "Requests to the API server.", ["verb", "code"], registry=self.registry
        )
        self.status_writes = Counter(
            "finetune_status_writes_total", "Statuses written.", ["outcome"], registry=self.registry
        )

    def request(self, verb: str, code: int) -> None:
        """Count one answer of the API server."""
        self._requests.labels(verb, str(code)).inc()

    def watch_jobs(self, phases: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Count jobs by namespace and phase at each scrape; `phases` gives both for every job."""
        self._namespaces = _Namespaces(phases)
        self.registry.register(self._namespaces)

    def gpus_held(self, namespace: str, gpus: float, seconds: float) -> None:
        """Running pods of `namespace` held `gpus` GPUs for `seconds`."""
        if gpus and self._namespaces:
            self._namespaces.gpu_seconds[namespace] += gpus * seconds

    def serve(self, port: int) -> None:
        """Answer scrapes on `port`, in a thread of its own."""
        start_http_server(port, registry=self.registry)

    def status_changed(self, before: Status, after: Status, created: Mapping[str, str] = MappingProxyType({})) -> None:
        """Count what a change of status tells of. `created`: when each Job was made, by its name."""
        known = {stage.name: stage for stage in before.stages}
        for stage in after.stages:
            earlier = known.get(stage.name)
            if earlier and earlier.key != stage.key:
                earlier = None
            if earlier and stage.attempts + stage.retries > earlier.attempts + earlier.retries:
                self.attempts.labels(stage.reason or "Unknown").inc()
            began = earlier is None or earlier.state != stage.state or earlier.job != stage.job
            if stage.state == StageState.RUNNING and began:
                self._waited(stage, created.get(stage.job or ""))
            if stage.state in _ENDED and not (earlier and earlier.state == stage.state):
                self._ended(stage)

    def _waited(self, stage: StageStatus, created: str | None) -> None:
        since = parse_time(created)
        if since:
            self.wait_seconds.labels(stage.type).observe(max(0.0, (datetime.now(UTC) - since).total_seconds()))

    def _ended(self, stage: StageStatus) -> None:
        succeeded = stage.state == StageState.SUCCEEDED
        self.attempts.labels("Succeeded" if succeeded else stage.reason or "Unknown").inc()
        started, finished = parse_time(stage.started_at), parse_time(stage.finished_at)
        if started and finished:
            self.stage_seconds.labels(stage.type, stage.state.value).observe((finished - started).total_seconds())


class _Namespaces(Collector):
    """What is told by namespace: of those that have jobs, so that a namespace's series go with its last job."""

    def __init__(self, phases: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._phases = phases
        self.gpu_seconds: defaultdict[str, float] = defaultdict(float)

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("finetune_jobs", "FinetuneJobs by namespace and phase.", labels=["namespace", "phase"])
        gpus = CounterMetricFamily(
            "finetune_gpu_seconds", "GPUs times seconds that running stages held them.", labels=["namespace"]
        )
        counted = Count(self._phases())
        for (namespace, phase), number in counted.items():
            jobs.add_metric([namespace, phase], number)
        for namespace in self.gpu_seconds.keys() - {namespace for namespace, _ in counted}:
            del self.gpu_seconds[namespace]
        for namespace, seconds in self.gpu_seconds.items():
            gpus.add_metric([namespace], seconds)
        yield from (jobs, gpus)
