"""The shell around the core: kopf's watches fill indices, events reach one keyed queue, decisions are carried out.

Nothing here decides. kopf's indices hold what the API server shows; the queue works on one job at a time; each
piece of work reads the indices anew, asks `reconcile`, and does what it says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
import kopf

from finetune_api import API_VERSION, GROUP, KIND, PLURAL, VERSION, keys
from finetune_api.status import StageProgress, StageState, Status
from finetune_operator import labels
from finetune_operator.conditions import blocked
from finetune_operator.events import Event, events
from finetune_operator.kube import ApiError, Kube
from finetune_operator.leadership import lead
from finetune_operator.manifests import CONTAINER, Manifest, Owner
from finetune_operator.metrics import Metrics
from finetune_operator.observe import attempts
from finetune_operator.plan import PLAN_KEY, Plan, read_plan
from finetune_operator.policy_watch import PolicyWatch
from finetune_operator.progress import LIMIT_BYTES, TAIL_LINES, last_progress
from finetune_operator.reconcile import Create, Seen, Stop, reconcile
from finetune_operator.settings import Settings
from finetune_operator.times import rfc3339
from finetune_operator.view import JobView, read_job
from finetune_operator.workqueue import WorkQueue

Key = tuple[str, str]
Body = dict[str, Any]
logger = logging.getLogger(__name__)

CREATE_AGAIN_AFTER = 10.0
# How long a Job that was made here counts as there while the watch does not show it.
WATCH_LAG = 15.0
AT_WORK = (StageState.PENDING, StageState.QUEUED, StageState.RUNNING)


class Controller:
    """One operator process. It sets `lost_leadership` when it must act no more."""

    def __init__(self, settings: Settings, lost_leadership: asyncio.Event) -> None:
        self.settings = settings
        self._lost_leadership = lost_leadership
        self.kube: Kube
        self.queue: WorkQueue[Key] = WorkQueue(self.work, workers=settings.workers)
        self.metrics = Metrics(queue_depth=lambda: self.queue.depth)
        self.policies = PolicyWatch(self.on_policies)
        self._finetune_jobs: Mapping[Key, Iterable[Body]] = {}
        self._stage_jobs: Mapping[Key, Iterable[Body]] = {}
        self._stage_pods: Mapping[Key, Iterable[Body]] = {}
        # Jobs made here that the watch has not shown yet: without them the next look would miss them.
        self._created: dict[Key, dict[str, tuple[float, Body]]] = {}
        self._plans: dict[Key, tuple[str, Plan]] = {}
        self._progress: dict[Key, dict[str, StageProgress]] = {}
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
        await self.policies.start(self.kube, indices)
        if self.settings.metrics_port:
            self.metrics.watch_jobs(self._phases)
            self.metrics.serve(self.settings.metrics_port)
        if self.settings.lease:
            election = lead(
                self.kube.api, self.settings.lease, self.settings.namespace, self._begin, self._lost_leadership.set
            )
            self._tasks.append(asyncio.create_task(election, name="election"))
        else:
            self._begin()

    def _begin(self) -> None:
        """Act: the only operator, or the one that holds the Lease. What was queued as a standby is done now."""
        self.queue.start()
        self._tasks.append(asyncio.create_task(self._poll_progress(), name="progress"))

    async def stop(self, **_: Any) -> None:
        """Stop where we are: the next start decides anew."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.queue.stop()
        await self.kube.close()

    def index_finetune_job(self, body: kopf.Body, namespace: str | None, name: str, **_: Any) -> Any:
        """FinetuneJobs by namespace and name."""
        return {(namespace or "", name): slim(body)}

    def index_child(self, body: kopf.Body, namespace: str | None, **_: Any) -> Any:
        """Jobs and pods by the FinetuneJob that their labels name."""
        owner = (body["metadata"].get("labels") or {}).get(labels.JOB)
        return {(namespace or "", owner): slim(body)} if owner else None

    def on_finetune_job(self, namespace: str | None, name: str, **_: Any) -> None:
        """A FinetuneJob changed."""
        self.queue.add((namespace or "", name))

    def on_child(self, body: kopf.Body, namespace: str | None, **_: Any) -> None:
        """A Job or pod changed: its owner is looked at."""
        owner = (body["metadata"].get("labels") or {}).get(labels.JOB)
        if owner:
            self.queue.add((namespace or "", owner))

    def on_policies(self, namespace: str | None) -> None:
        """Other policies may hold for the jobs of a namespace, or of all."""
        for key in list(self._finetune_jobs):
            if namespace in (None, key[0]):
                self.queue.add(key)

    def _phases(self) -> list[tuple[str, str]]:
        """Namespace and phase of every job."""
        bodies = [(key, body) for key in list(self._finetune_jobs) for body in self._finetune_jobs.get(key, ())]
        return [(key[0], str((body.get("status") or {}).get("phase", "Pending"))) for key, body in bodies]

    # --- one piece of work

    async def work(self, key: Key) -> float | None:
        """Bring one job forward; seconds until it should be looked at again, if it should."""
        with self.metrics.reconcile_seconds.time():
            return await self._work(key)

    async def _work(self, key: Key) -> float | None:
        body = next(iter(self._finetune_jobs.get(key, ())), None)
        if body is None:
            self._forget(key)
            return None
        view = read_job(body)
        outcome = reconcile(view, await self._seen(key, view), self.settings, datetime.now(UTC))
        status, requeue = outcome.status, outcome.requeue
        for place, action in enumerate(outcome.actions):
            try:
                await self._carry_out(key, action)
            except ApiError as error:
                if error.status >= 500 or status is None:
                    raise
                undone = [_stage_of(action) for action in outcome.actions[place:]]
                logger.warning("%s/%s: the API server refused %s: %s", *key, undone[0] or "its plan", error)
                status = blocked(status, view.status, undone, error.message)
                requeue = CREATE_AGAIN_AFTER
                # What follows may need what was refused: a stage its plan, a new Job the old one's end.
                break
        if status is not None:
            await self._write_status(view, status)
        return requeue

    def _forget(self, key: Key) -> None:
        for store in (self._created, self._plans, self._progress):
            store.pop(key, None)

    async def _seen(self, key: Key, view: JobView) -> Seen:
        shown = {job["metadata"]["name"]: job for job in self._stage_jobs.get(key, ())}
        unshown = await self._unshown(key, view, shown)
        pods = self._stage_pods.get(key, ())
        return Seen(
            attempts=attempts([*shown.values(), *unshown], pods, view.owner.uid),
            progress=self._progress.get(key, {}),
            plan=await self._plan(key, view),
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
        plan = read_plan((found.get("data") or {}).get(PLAN_KEY, "")) if found else None
        if plan:
            self._plans[key] = (reference.name, plan)
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

    async def _write_status(self, view: JobView, status: Status) -> None:
        """Write what changed, and tell of it. A conflict means that a newer event is on its way."""
        wire = status.wire()
        if wire == dict(view.raw_status):
            return
        owner, changes = view.owner, merge_patch(view.raw_status, wire)
        try:
            await self.kube.patch_status(owner.namespace, owner.name, changes, view.resource_version)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            self.metrics.status_writes.labels("conflict").inc()
            return
        self.metrics.status_writes.labels("written").inc()
        self.metrics.status_changed(view.status, status)
        for event in events(view.status, status):
            logger.info("%s/%s: %s: %s", owner.namespace, owner.name, event.reason, event.message)
            await self._post(owner, event)

    async def _post(self, owner: Owner, event: Event) -> None:
        """Post an Event; the same words again raise its count. An Event that fails stops nothing."""
        now = rfc3339(datetime.now(UTC))
        name = f"{owner.name}.{keys.digest([owner.uid, event.reason, event.message])[:16]}"
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": owner.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": owner.namespace,
                "name": owner.name,
                "uid": owner.uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": labels.OPERATOR},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self.kube.create(body)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                found = await self.kube.get("Event", owner.namespace, name) or {}
                changes = {"count": int(found.get("count") or 1) + 1, "lastTimestamp": now}
                await self.kube.patch_event(owner.namespace, name, changes)
            else:
                logger.warning("%s/%s: event %s was refused: %s", owner.namespace, owner.name, event.reason, error)

    # --- progress

    async def _poll_progress(self) -> None:
        """Ask running pods for their last lines, every progress_interval; slower when many run."""
        budget = asyncio.Semaphore(self.settings.progress_in_flight)
        while True:
            running = [
                (key, pod)
                for key in list(self._stage_pods)
                for pod in self._stage_pods.get(key, ())
                if (pod.get("status") or {}).get("phase") == "Running"
            ]
            await asyncio.gather(*(self._read_progress(key, pod, budget) for key, pod in running))
            await asyncio.sleep(self.settings.progress_interval * max(1.0, len(running) / 100))

    async def _read_progress(self, key: Key, pod: Body, budget: asyncio.Semaphore) -> None:
        meta = pod["metadata"]
        job = (meta.get("labels") or {}).get(labels.JOB_NAME, "")
        try:
            async with budget:
                tail = await self.kube.log_tail(key[0], meta["name"], CONTAINER, TAIL_LINES, LIMIT_BYTES)
        except (ApiError, aiohttp.ClientError, OSError) as error:
            logger.debug("%s/%s: no progress from %s: %s", *key, meta["name"], error)
            return
        progress = last_progress(tail)
        if progress is not None and self._progress.get(key, {}).get(job) != progress:
            self._progress[key] = {job: progress}
            self.queue.add(key)


def slim(body: Mapping[str, Any]) -> Body:
    """What the operator reads of an object; the rest would only cost memory, thousands of times."""
    meta = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    found = {**body, "metadata": meta}
    if "template" in (body.get("spec") or {}):
        found["spec"] = {name: value for name, value in body["spec"].items() if name != "template"}
    elif "containers" in (body.get("spec") or {}):
        found["spec"] = {}
    return found


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Body:
    """The JSON merge patch (RFC 7396) that turns `before` into `after`."""
    patch: Body = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            inner = merge_patch(old, value)
            if inner:
                patch[name] = inner
        elif name not in before or old != value:
            patch[name] = value
    return patch


def _stage_of(action: Create | Stop) -> str:
    if isinstance(action, Stop):
        return action.attempt.stage
    return str((action.manifest["metadata"].get("labels") or {}).get(labels.STAGE, ""))
