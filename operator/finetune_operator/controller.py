"""The shell around the core: kopf's watches fill indices, events reach one keyed queue, decisions are carried out.

Nothing here decides. kopf's indices hold what the API server shows; the queue works on one job at a time; each
piece of work reads the indices anew, asks `reconcile`, and does what it says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import kopf

from finetune_api import GROUP, PLURAL, VERSION
from finetune_api.status import Status
from finetune_operator import labels, logs, places
from finetune_operator.actions import Create, Outcome, Seen, Stop
from finetune_operator.caches import Body, Key
from finetune_operator.conditions import FINAL, blocked, broken
from finetune_operator.kopf_settings import configure
from finetune_operator.kube import ApiError, Kube, may_pass
from finetune_operator.leadership import lead
from finetune_operator.manifests import Manifest
from finetune_operator.metrics import Metrics
from finetune_operator.observe import attempts, has_ended
from finetune_operator.plan import PLAN_KEY, Plan, read_plan
from finetune_operator.policy import Tenancy
from finetune_operator.policy_watch import PolicyWatch
from finetune_operator.polling import Poller
from finetune_operator.probes import Probes
from finetune_operator.reconcile import reconcile
from finetune_operator.reporting import write_status
from finetune_operator.resync import Resync
from finetune_operator.settings import Settings
from finetune_operator.view import JobView, read_job
from finetune_operator.watched import OWN, WATCH_LAG, Watched, owner_of
from finetune_operator.workloads import Workloads
from finetune_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

CREATE_AGAIN_AFTER = 10.0
METER_SECONDS = 10.0
# How long news that is not urgent waits for more of it: as a pod starts it changes several times a second.
NEWS_AFTER = 0.5


class Controller:
    """One operator process, which `end` ends: set when another one leads, and once this one has stopped."""

    def __init__(self, settings: Settings, end: asyncio.Event) -> None:
        self.settings = settings
        self.lost_leadership = False
        self._end = end
        self.kube: Kube
        self.workloads: Workloads
        self.queue: WorkQueue[Key] = WorkQueue(self.work, workers=settings.workers, may_pass=may_pass)
        self.metrics = Metrics(queue_depth=lambda: self.queue.depth)
        self.policies = PolicyWatch(self.on_policies)
        self.watched = Watched()
        self._plans: dict[Key, tuple[str, Plan]] = {}
        self._poller = Poller(settings, self.watched.pods, self.queue.add)
        caches = [*self.watched.caches(), *self.policies.caches()]
        self._resync = Resync(caches, settings.namespaces, self.on_gone, settings.resync_seconds)
        self.watched.is_ghost = self.policies.is_ghost = self._resync.is_ghost
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
        own: dict[str, Any] = {"labels": OWN, "registry": registry}
        self.watched.register(registry)
        self.policies.register(registry)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(self.on_finetune_job)
        kopf.on.event("batch", "v1", "jobs", **own)(self.on_job)
        kopf.on.event("", "v1", "pods", **own)(self.on_pod)

    # --- kopf's handlers

    async def start(self, settings: kopf.OperatorSettings, **indices: Any) -> None:
        """Configure kopf, connect, and start the workers; they wait for events, which wait for the indices."""
        configure(settings, self.settings.request_timeout)
        self.watched.start(indices)
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
            self._spawn(lead(self.kube.api, self.settings, self._begin, self._lose), "election")
        else:
            self._begin()

    def _begin(self) -> None:
        """Act: the only operator, or the one that holds the Lease. What was queued as a standby is done now."""
        self._spawn(self._act(), "progress")
        self._spawn(self._meter(), "meter")

    async def _act(self) -> None:
        """Start the workers once all policies are known, and read progress from then on.

        Events come no earlier, but what `resync` and the poller find out does.
        """
        await self.policies.listed.wait()
        self.queue.start()
        await self._poller.run(self.kube)

    def _lose(self) -> None:
        """Another one leads: act no more."""
        self.lost_leadership = True
        self._end.set()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_log_failure)
        self._tasks.append(task)

    async def stop(self, **_: Any) -> None:
        """Stop where we are: the next start decides anew. The Lease, a task's, is given back once nothing is done."""
        await self.queue.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._probes.close()
        await self.kube.close()
        # kopf has a task that waits for this, leaves it behind, and waits five seconds for it.
        self._end.set()

    async def on_finetune_job(
        self, body: kopf.Body, namespace: str | None, name: str, type: str | None, **_: Any
    ) -> None:
        """A FinetuneJob changed."""
        key, gone = (namespace or "", name), type == "DELETED"
        # What was written here is no news, except of an end: what it lets be cleaned up is counted from there.
        if not self.watched.heard(key, body) or gone or (body.get("status") or {}).get("phase") in FINAL:
            self.queue.add(key)
        if gone or not places.wants_one(body):
            # The namespace as a whole: once for all that ended meanwhile, as at a restart, which hears of every job.
            self.queue.add_after((key[0], ""), NEWS_AFTER)

    async def on_job(self, body: kopf.Body, namespace: str | None, **_: Any) -> None:
        """A Job changed: its owner is looked at, and at once where it ended, since the next stage waits for that."""
        key = owner_of(body, namespace)
        # That it is there is known to who made it; how long it waits in a queue is not.
        if key and (body["spec"].get("suspend") or not self.watched.knows_job(key, body)):
            self.queue.add(key, urgent=has_ended(body))

    async def on_pod(self, body: kopf.Body, namespace: str | None, **_: Any) -> None:
        """A pod changed: its owner is looked at soon; at once where it is its Job's end that waits for it."""
        key = owner_of(body, namespace)
        if key is None:
            return
        owners = {reference.get("uid") for reference in body["metadata"].get("ownerReferences") or ()}
        if any(job["metadata"]["uid"] in owners and has_ended(job) for job in self.watched.jobs_of(key)):
            self.queue.add(key, urgent=True)
        else:
            self.queue.add_after(key, NEWS_AFTER)

    def on_policies(self, namespace: str | None) -> None:
        """Other policies may hold for the jobs of a namespace, or of all."""
        for key, _ in self.watched.finetune_jobs(namespace):
            self.queue.add(key)

    def on_gone(self, key: Key) -> None:
        """A list shows that something of a FinetuneJob went unsaid; without a name, what its namespace is held to."""
        if key[1]:
            self.queue.add(key)
        else:
            self.on_policies(key[0] or None)

    async def _give_places(self, namespace: str) -> None:
        """A job of the namespace needs its place no more: look at those that may have it."""
        limit = (await self.policies.of(namespace)).max_running()
        if limit is None:
            return
        there = dict(self.watched.finetune_jobs(namespace))
        free = places.with_a_place(there.values(), limit[0])
        for key, body in there.items():
            if body["metadata"]["uid"] in free and places.is_waiting(body):
                self.queue.add(key)

    def _has_place(self, key: Key, body: Body, tenancy: Tenancy) -> bool:
        """Whether the job may begin, or has begun, by how many of its namespace may."""
        limit = tenancy.max_running()
        if limit is None or places.has_begun(body):
            return True
        there = (other for _, other in self.watched.finetune_jobs(key[0]))
        return body["metadata"]["uid"] in places.with_a_place(there, limit[0], asking=body["metadata"]["uid"])

    def _phases(self) -> list[tuple[str, str]]:
        """Namespace and phase of every job; asked by the thread that answers scrapes."""
        return [(key[0], str((body.get("status") or {}).get("phase", "Pending"))) for key, body in self.watched.shown()]

    async def _meter(self) -> None:
        """Count the GPUs that running pods hold, while this operator leads."""
        while True:
            await asyncio.sleep(METER_SECONDS)
            for key, pod in self.watched.pods():
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
        if not key[1]:
            await self._give_places(key[0])
            return None
        with self.metrics.reconcile_seconds.time():
            return await self._work(key)

    async def _work(self, key: Key) -> float | None:
        body = self.watched.finetune_job(key)
        if body is None:
            self._forget(key)
            return None
        view = read_job(body)
        with logs.about(namespace=key[0], name=key[1], generation=view.owner.generation):
            seen = await self._seen(key, body, view)
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
                if error.passing or status is None:
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
        if self.watched.any_unwatched(key, seen.attempts):
            requeue = min(requeue or WATCH_LAG, WATCH_LAG)
        return requeue

    async def _tell(self, key: Key, view: JobView, status: Status, seen: Seen) -> None:
        """Write the status, and remember it until the watch shows it."""
        created = {attempt.name: attempt.created_at for attempt in seen.attempts}
        written = await write_status(self.kube, self.metrics, view, status, created)
        if written is not None:
            self.watched.wrote(key, written)

    def _forget(self, key: Key) -> None:
        self.watched.forget(key)
        self._plans.pop(key, None)
        self._poller.forget(key)

    async def _seen(self, key: Key, body: Body, view: JobView) -> Seen:
        unshown = await self.watched.unshown_jobs(self.kube, key, view)
        jobs = [*self.watched.jobs_of(key), *unshown]
        tenancy = await self.policies.of(key[0])
        return Seen(
            attempts=attempts(jobs, self.watched.pods_of(key), view.owner.uid),
            progress=self._poller.of(key),
            plan=await self._plan(key, view),
            queues=await self.workloads.of(key[0], jobs),
            tenancy=tenancy,
            has_place=self._has_place(key, body, tenancy),
        )

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
            self.watched.created(key, made)

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


def _stage_of(action: Create | Stop) -> str:
    if isinstance(action, Stop):
        return action.attempt.stage
    return str((action.manifest["metadata"].get("labels") or {}).get(labels.STAGE, ""))
