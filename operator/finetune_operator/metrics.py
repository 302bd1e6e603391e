"""Prometheus metrics. Labels name namespaces, phases, types and reasons, never jobs: their number is bounded."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api.status import StageState, StageStatus, Status
from finetune_operator.times import parse_time

_STAGE_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 48 * 3600)
_ENDED = (StageState.SUCCEEDED, StageState.FAILED)


class Metrics:
    """What an operator process counts."""

    def __init__(self, queue_depth: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.stage_seconds = Histogram(
            "finetune_stage_duration_seconds",
            "From a stage's first attempt to its end.",
            ["type", "outcome"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self.attempts = Counter(
            "finetune_stage_retries_total", "Attempts made again, by cause.", ["reason"], registry=self.registry
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
        self.registry.register(_Jobs(phases))

    def serve(self, port: int) -> None:
        """Answer scrapes on `port`, in a thread of its own."""
        start_http_server(port, registry=self.registry)

    def status_changed(self, namespace: str, before: Status, after: Status) -> None:
        """Count what a change of status tells of."""
        known = {stage.name: stage for stage in before.stages}
        for stage in after.stages:
            earlier = known.get(stage.name)
            same = earlier is not None and earlier.key == stage.key
            if earlier and same and stage.attempts + stage.retries > earlier.attempts + earlier.retries:
                self.attempts.labels(stage.reason or "Unknown").inc()
            if stage.state in _ENDED and not (earlier and same and earlier.state == stage.state):
                self._ended(stage)

    def _ended(self, stage: StageStatus) -> None:
        started, finished = parse_time(stage.started_at), parse_time(stage.finished_at)
        if started and finished:
            self.stage_seconds.labels(stage.type, stage.state.value).observe((finished - started).total_seconds())


class _Jobs(Collector):
    def __init__(self, phases: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._phases = phases

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "finetune_jobs", "FinetuneJobs by namespace and phase.", labels=["namespace", "phase"]
        )
        for (namespace, phase), number in Count(self._phases()).items():
            family.add_metric([namespace, phase], number)
        yield family
