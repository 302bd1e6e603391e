"""The shell around the core: kopf's watches fill indices, events reach one keyed queue, decisions are carried out.

Nothing here decides. kopf's indices hold what the API server shows; the queue works on one job at a time; each
piece of work reads the indices anew, asks `reconcile`, and does what it says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import kopf

from finetune_api import GROUP, PLURAL, VERSION
from finetune_api.status import StageState, Status
from finetune_operator import labels, logs
from finetune_operator.actions import Create, Outcome, Seen, Stop
from finetune_operator.caches import Body, Echoes, Key, NoDiffBase, slim
from finetune_operator.conditions import blocked, broken
from finetune_operator.kube import ApiError, Kube
from finetune_operator.leadership import lead
from finetune_operator.manifests import Manifest
from finetune_operator.metrics import Metrics
from finetune_operator.observe import attempts
from finetune_operator.plan import PLAN_KEY, Plan, read_plan
from finetune_operator.policy_watch import PolicyWatch
from finetune_operator.polling import Poller
from finetune_operator.probes import Probes
from finetune_operator.reconcile import reconcile
from finetune_operator.reporting import write_status
from finetune_operator.resync import Cache, Resync
from finetune_operator.settings import Settings
from finetune_operator.view import JobView, read_job
from finetune_operator.workloads import Workloads
from finetune_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

CREATE_AGAIN_AFTER = 10.0
# How long a Job that was made here counts as there while the watch does not show it.
WATCH_LAG = 15.0
METER_SECONDS = 10.0
AT_WORK = (StageState.PENDING, StageState.QUEUED, StageState.RUNNING)


Index = Mapping[Key, Iterable[Body]]


class Controller:
    """One operator process. It sets `lost_leadership` when it must act no more."""

    def __init__(self, settings: Settings, lost_leadership: asyncio.Event) -> None:
        self.settings = settings
        self._lost_leadership = lost_leadership
        self.kube: Kube
        self.workloads: Workloads
        self.queue: WorkQueue[Key] = WorkQueue(self.work, workers=settings.workers)
        self.metrics = Metrics(queue_depth=lambda: self.queue.depth)
        self.policies = PolicyWatch(self.on_policies)
        self._finetune_jobs: Index = {}
        self._stage_jobs: Index = {}
        self._stage_pods: Index = {}
        # Jobs made here that the watch has not shown yet: without them the next look would miss them.
        self._created: dict[Key, dict[str, tuple[float, Body]]] = {}
        self._plans: dict[Key, tuple[str, Plan]] = {}
        self._echoes = Echoes()
        self._poller = Poller(settings, self._pods, self.queue.add)
        caches = (
            Cache("FinetuneJob", "", lambda: _items(self._finetune_jobs)),
            Cache("Job", labels.SELECTOR, lambda: _items(self._stage_jobs)),
            Cache("Pod", labels.SELECTOR, self._pods),
        )
        self._resync = Resync(caches, settings.namespaces, self.queue.add, settings.resync_seconds)
        self._probes = Probes(
            alive=[self._stuck, self._deaf, self._ended],
            ready=[lambda: "" if self._resync.synced else "the caches are not full yet"],
        )
        self._tasks: list[asyncio.Task[None]] = []

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Hang this controller into kopf. Indices and events only: kopf then writes nothing to any object."""
        kopf.on.login(registry=registry)(kopf.login_via_client)
        kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)(self.start)
        kopf.on.cleanup(registry=registry)(self.stop)
        own: dict[str, Any] = {"labels": {labels.MANAGED_BY: labels.OPERATOR}, "registry": registry}
        kopf.index(GROUP, VERSION, PLURAL, id="finetune_jobs", registry=registry)(self.index_finetune_job)
        kopf.index("batch", "v1", "jobs", id="stage_jobs", **own)(self.index_child)
        kopf.index("", "v1", "pods", id="stage_pods", **own)(self.index_child)
        self.policies.register(registry)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(self.on_finetune_job)
        kopf.on.event("batch", "v1", "jobs", **own)(self.on_child)
        kopf.on.event("", "v1", "pods", **own)(self.on_child)

    # --- kopf's handlers

    async def start(self, settings: kopf.OperatorSettings, **indices: Any) -> None:
        """Configure kopf, connect, and start the workers; they wait for events, which wait for the indices."""
        settings.posting.enabled = False
        settings.persistence.diffbase_storage = NoDiffBase()
        settings.watching.server_timeout = 5 * 60
        settings.watching.label_selectors["batch", "v1", "jobs"] = labels.SELECTOR
        settings.watching.label_selectors["", "v1", "pods"] = labels.SELECTOR
        settings.watching.chunk_size = 500
        settings.networking.request_timeout = self.settings.request_timeout
        settings.networking.connect_timeout = 10
        # A change should be seen at once; the queue already folds what arrives meanwhile.
        settings.queueing.batch_window = 0.01
        settings.queueing.idle_timeout = 1.0
        self._finetune_jobs = indices["finetune_jobs"]
        self._stage_jobs, self._stage_pods = indices["stage_jobs"], indices["stage_pods"]
        self.kube = await Kube.connect(self.settings.request_timeout, self.metrics.request)
        self.workloads = Workloads(self.kube)
        await self.policies.start(self.kube, indices)
        self._spawn(self._resync.run(self.kube), "resync")
        if self.settings.liveness_port:
            await self._probes.serve(self.settings.liveness_port)
        if self.settings.metrics_port:
            self.metrics.watch_jobs(self._phases)
            self.metrics.serve(self.settings.metrics_port)
        if self.settings.lease:
            self._spawn(lead(self.kube.api, self.settings, self._begin, self._lost_leadership.set), "election")
        else:
            self._begin()

    def _begin(self) -> None:
        """Act: the only operator, or the one that holds the Lease. What was queued as a standby is done now."""
        self.queue.start()
        self._spawn(self._poller.run(self.kube), "progress")
        self._spawn(self._meter(), "meter")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_log_failure)
        self._tasks.append(task)

    async def stop(self, **_: Any) -> None:
        """Stop where we are: the next start decides anew."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.queue.stop()
        await self._probes.close()
        await self.kube.close()

    # Coroutines, though nothing in them waits: kopf calls plain functions in threads.

    async def index_finetune_job(self, body: kopf.Body, namespace: str | None, name: str, **_: Any) -> Any:
        """FinetuneJobs by namespace and name."""
        return {(namespace or "", name): slim(body)}

    async def index_child(self, body: kopf.Body, namespace: str | None, **_: Any) -> Any:
        """Jobs and pods by the FinetuneJob that their labels name."""
        owner = (body["metadata"].get("labels") or {}).get(labels.JOB)
        return {(namespace or "", owner): slim(body)} if owner else None

    async def on_finetune_job(self, body: kopf.Body, namespace: str | None, name: str, **_: Any) -> None:
        """A FinetuneJob changed."""
        key = (namespace or "", name)
        self._echoes.heard(key, body)
        self.queue.add(key)

    async def on_child(self, body: kopf.Body, namespace: str | None, **_: Any) -> None:
        """A Job or pod changed: its owner is looked at."""
        owner = (body["metadata"].get("labels") or {}).get(labels.JOB)
        if owner:
            self.queue.add((namespace or "", owner))

    def _pods(self) -> list[tuple[Key, Body]]:
        """Every pod, with the FinetuneJob that it is of."""
        return _items(self._stage_pods)

    def on_policies(self, namespace: str | None) -> None:
        """Other policies may hold for the jobs of a namespace, or of all."""
        for key in list(self._finetune_jobs):
            if namespace in (None, key[0]):
                self.queue.add(key)

    def _phases(self) -> list[tuple[str, str]]:
        """Namespace and phase of every job."""
        return [
            (key[0], str((body.get("status") or {}).get("phase", "Pending")))
            for key, body in _items(self._finetune_jobs)
        ]

    async def _meter(self) -> None:
        """Count the GPUs that running pods hold, while this operator leads."""
        while True:
            await asyncio.sleep(METER_SECONDS)
            for key, pod in self._pods():
                if (pod.get("status") or {}).get("phase") == "Running":
                    self.metrics.gpus_held(key[0], (pod.get("spec") or {}).get("gpus", 0.0), METER_SECONDS)

    # --- what is wrong with this process, if anything

    def _stuck(self) -> str:
        longest = self.queue.longest()
        return f"a worker has been at one job for {longest:.0f} s" if longest > self.settings.stuck_seconds else ""

    def _deaf(self) -> str:
        overdue = self._resync.overdue()
        return f"a watch has shown nothing new for {overdue:.0f} s" if overdue > self.settings.stuck_seconds else ""

    def _ended(self) -> str:
        return ", ".join(f"the task {task.get_name()} has ended" for task in self._tasks if task.done())

    # --- one piece of work

    async def work(self, key: Key) -> float | None:
        """Bring one job forward; seconds until it should be looked at again, if it should."""
        with self.metrics.reconcile_seconds.time():
            return await self._work(key)

    async def _work(self, key: Key) -> float | None:
        body = self._echoes.newest(key, next(self._there(self._finetune_jobs, key), None))
        if body is None:
            self._forget(key)
            return None
        view = read_job(body)
        with logs.about(namespace=key[0], name=key[1], generation=view.owner.generation):
            seen = await self._seen(key, view)
            try:
                outcome = reconcile(view, seen, self.settings, datetime.now(UTC))
            except Exception as error:
                # Whatever is odd about this job must be seen where its user looks; the queue logs it and tries again.
                await self._tell(key, view, broken(view.status, view.owner.generation, error, datetime.now(UTC)), seen)
                raise
            return await self._bring_forward(key, view, seen, outcome)

    async def _bring_forward(self, key: Key, view: JobView, seen: Seen, outcome: Outcome) -> float | None:
        """Do what was decided, as far as the API server lets us, and say so."""
        status, requeue = outcome.status, outcome.requeue
        for place, action in enumerate(outcome.actions):
            try:
                await self._carry_out(key, action)
            except ApiError as error:
                if error.status >= 500 or status is None:
                    raise
                undone = [_stage_of(action) for action in outcome.actions[place:]]
                with logs.about(stage=undone[0]):
                    logger.warning("The API server refused %s: %s", undone[0] or "the plan", error)
                status = blocked(status, view.status, undone, error.message)
                requeue = CREATE_AGAIN_AFTER
                # What follows may need what was refused: a stage its plan, a new Job the old one's end.
                break
        if status is not None:
            await self._tell(key, view, status, seen)
        if self._is_unwatched(key, seen):
            requeue = min(requeue or WATCH_LAG, WATCH_LAG)
        return requeue

    async def _tell(self, key: Key, view: JobView, status: Status, seen: Seen) -> None:
        """Write the status, and remember it until the watch shows it."""
        created = {attempt.name: attempt.created_at for attempt in seen.attempts}
        written = await write_status(self.kube, self.metrics, view, status, created)
        if written is not None:
            self._echoes.wrote(key, written)

    def _is_unwatched(self, key: Key, seen: Seen) -> bool:
        """Whether a Job at work is not on the watch, as one whose labels somebody took: no event will tell its end."""
        shown = {job["metadata"]["name"] for job in self._there(self._stage_jobs, key)}
        return any(not attempt.finished and attempt.name not in shown for attempt in seen.attempts)

    def _there(self, index: Index, key: Key) -> Iterator[Body]:
        """What `index` holds for `key`, but for what is known to be gone."""
        return (item for item in index.get(key, ()) if not self._resync.is_ghost(item))

    def _forget(self, key: Key) -> None:
        self._created.pop(key, None)
        self._plans.pop(key, None)
        self._echoes.forget(key)
        self._poller.forget(key)

    async def _seen(self, key: Key, view: JobView) -> Seen:
        shown = {job["metadata"]["name"]: job for job in self._there(self._stage_jobs, key)}
        unshown = await self._unshown(key, view, shown)
        pods = self._there(self._stage_pods, key)
        return Seen(
            attempts=attempts([*shown.values(), *unshown], pods, view.owner.uid),
            progress=self._poller.of(key),
            plan=await self._plan(key, view),
            queues=await self.workloads.of(key[0], [*shown.values(), *unshown]),
            tenancy=await self.policies.of(key[0]),
        )

    async def _unshown(self, key: Key, view: JobView, shown: Mapping[str, Body]) -> list[Body]:
        """Jobs that there are and that the watch does not show, or not yet.

        Those that were made here a moment ago count; those that status has at work are asked for, because a watch may
        lag (another replica's, say), and a Job that was taken away must be known as gone.
        """
        fresh = {
            name: (since, job)
            for name, (since, job) in self._created.get(key, {}).items()
            if name not in shown and time.monotonic() - since < WATCH_LAG
        }
        self._created[key] = fresh
        recorded = {stage.job for stage in view.status.stages if stage.job and stage.state in AT_WORK}
        asked = [await self.kube.get("Job", key[0], name) for name in sorted(recorded - shown.keys() - fresh.keys())]
        return [job for _, job in fresh.values()] + [slim(job) for job in asked if job is not None]

    async def _plan(self, key: Key, view: JobView) -> Plan | None:
        """The plan that status names, from memory or from its ConfigMap."""
        reference = view.status.plan
        if reference is None:
            return None
        known = self._plans.get(key)
        if known and known[0] == reference.name:
            return known[1]
        found = await self.kube.get("ConfigMap", key[0], reference.name)
        return self._remember_plan(key, found) if found else None

    def _remember_plan(self, key: Key, config_map: Body) -> Plan | None:
        """The plan in `config_map`: it is immutable, so that it need not be read twice."""
        plan = read_plan((config_map.get("data") or {}).get(PLAN_KEY, ""))
        if plan:
            self._plans[key] = (config_map["metadata"]["name"], plan)
        return plan

    async def _carry_out(self, key: Key, action: Create | Stop) -> None:
        if isinstance(action, Stop):
            await self.kube.delete_job(key[0], action.attempt.name, action.attempt.uid)
            return
        manifest = action.manifest
        try:
            made = await self.kube.create(manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            made = await self._existing(manifest)
        if manifest["kind"] == "ConfigMap" and self._remember_plan(key, made) is None:
            name = made["metadata"]["name"]
            raise ApiError(409, "NoPlan", f"ConfigMap {name} is there and holds no plan of this operator; delete it")
        if manifest["kind"] == "Job":
            self._created.setdefault(key, {})[made["metadata"]["name"]] = (time.monotonic(), slim(made))

    async def _existing(self, manifest: Manifest) -> Body:
        """The object that has the name already; raises ApiError where it is not this job's."""
        meta = manifest["metadata"]
        found = await self.kube.get(manifest["kind"], meta["namespace"], meta["name"])
        wanted = {owner["uid"] for owner in meta["ownerReferences"]}
        owners = {owner.get("uid") for owner in (found or {}).get("metadata", {}).get("ownerReferences") or []}
        if found is None or not wanted & owners:
            kind, name = manifest["kind"], meta["name"]
            raise ApiError(409, "NameTaken", f"{kind} {name} is there and is not this job's; delete or rename it")
        return found


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("The task %s failed.", task.get_name(), exc_info=error)


def _items(index: Index) -> list[tuple[Key, Body]]:
    return [(key, item) for key in list(index) for item in index.get(key, ())]


def _stage_of(action: Create | Stop) -> str:
    if isinstance(action, Stop):
        return action.attempt.stage
    return str((action.manifest["metadata"].get("labels") or {}).get(labels.STAGE, ""))
