"""The Job controller: watches Jobs and pods, asks `jobs.sync` what to do, and does it."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from finetune_local.client import JOBS, PODS, ApiClient, ApiError, Object, may_pass, uid_of
from finetune_local.controllers import jobpods
from finetune_local.controllers.jobs import POD_BACKOFF, Steps, sync
from finetune_local.events import EventRecorder
from finetune_local.informer import DELETED, Informer
from finetune_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

# A Job settles in three or four rounds; one that does not waits its turn behind the others.
MOST_ROUNDS = 8
WORKERS = 16
# Seconds until a pod's progress shows in its Job's status (Kubernetes: 1).
PROGRESS_PAUSE = 0.3
# Seconds until the next try: the watch usually brings the newer object before; a server needs longer to come back.
CONFLICT_PAUSE, AWAY_PAUSE = 0.05, 0.5


class JobController:
    """Runs every batch/v1 Job of the API server that `client` speaks to, in all namespaces.

    `pod_backoff`: seconds before the first failed pod of a Job is replaced, doubled with each further failure
    (Kubernetes: 10).
    """

    def __init__(self, client: ApiClient, *, pod_backoff: float = POD_BACKOFF) -> None:
        self._client = client
        self._pod_backoff = pod_backoff
        self._jobs = Informer(client, JOBS, self._job_changed)
        self._pods = Informer(client, PODS, self._pod_changed)
        self._pods_of: dict[str, dict[str, Object]] = {}
        # By pod: the Job that it is filed under.
        self._filed: dict[str, str] = {}
        self._queue: WorkQueue[str] = WorkQueue(self._work, workers=WORKERS, backoff=0.1, backoff_limit=10.0)
        self._events = EventRecorder(client, "job-controller")
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            try:
                tasks.create_task(self._jobs.run(), name="jobs")
                tasks.create_task(self._pods.run(), name="job-pods")
                tasks.create_task(self._events.run(), name="job-events")
                await self._jobs.synced.wait()
                await self._pods.synced.wait()
                # Before both caches are full, a Job would look as if it had no pods.
                self._queue.start()
                self.ready.set()
                await asyncio.Event().wait()
            finally:
                await self._queue.stop()

    def _job_changed(self, kind: str, job: Object) -> None:
        del kind
        self._queue.add(uid_of(job))

    def _pod_changed(self, kind: str, pod: Object) -> None:
        owner = jobpods.owner_uid(pod)
        if kind == DELETED:
            self._filed.pop(uid_of(pod), None)
            self._pods_of.get(owner or "", {}).pop(uid_of(pod), None)
        else:
            self._keep(pod)
        if owner is None or kind == DELETED or not jobpods.is_active(pod):
            self._queue.add(owner or "")
        else:
            # That a pod runs or is ready only shows in the status' numbers.
            self._queue.add_after(owner, PROGRESS_PAUSE)

    def _keep(self, pod: Object) -> None:
        """File the pod under its Job's uid; under "" where it is tracked but no Job's any more."""
        owner = jobpods.owner_uid(pod) or ""
        if owner or jobpods.is_tracked(pod):
            self._pods_of.setdefault(owner, {})[uid_of(pod)] = pod
        before = self._filed.get(uid_of(pod), owner)
        self._filed[uid_of(pod)] = owner
        if before != owner:
            # Orphaned: the Job that it was of has one pod less.
            self._pods_of.get(before, {}).pop(uid_of(pod), None)
            self._queue.add(before)

    def _observe(self, pod: Object) -> None:
        if self._pods.observe(pod):
            self._keep(pod)

    def _suppose(self, pod: Object) -> None:
        """Take `pod` as its present state until the watch tells the real one, or that it is gone."""
        if self._pods.get(uid_of(pod)) is not None:
            self._keep(pod)

    async def _work(self, uid: str) -> float | None:
        try:
            return await self._settle(uid)
        except Exception as error:
            # What it rested on has changed or gone, and the watch is about to say so.
            outdated = isinstance(error, ApiError) and error.status in (404, 409)
            if not (outdated or may_pass(error)):
                raise
            logger.debug("Job %s: %s", uid, error)
            return CONFLICT_PAUSE if outdated else AWAY_PAUSE

    async def _settle(self, uid: str) -> float | None:
        for _ in range(MOST_ROUNDS):
            job = self._jobs.get(uid)
            pods = list(self._pods_of.get(uid, {}).values())
            if job is None:
                await self._release([pod for pod in pods if jobpods.is_tracked(pod)])
                self._pods_of.pop(uid, None)
                return None
            steps = sync(job, pods, datetime.now(UTC), pod_backoff=self._pod_backoff)
            if not await self._take(job, steps):
                return steps.again
        return 0.0

    async def _take(self, job: Object, steps: Steps) -> bool:
        """Do the steps; whether anything changed that may call for more."""
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        for pod in steps.delete:
            await self._delete(job, pod)
        for pod in steps.create:
            await self._create(job, pod)
        changed = steps.status != job.get("status", {})
        if changed:
            body = {**job, "status": steps.status}
            self._jobs.observe(await self._client.replace(JOBS.path(namespace, name, "status"), body))
        for notice in steps.notices:
            self._events.record(job, notice.kind, notice.reason, notice.message)
        await self._release(steps.release)
        if steps.expired:
            await self._client.delete(JOBS.path(namespace, name), uid=uid_of(job), propagation="Foreground")
        return changed or bool(steps.release)

    async def _create(self, job: Object, pod: Object) -> None:
        try:
            created = await self._client.create(PODS.path(pod["metadata"]["namespace"]), pod)
        except ApiError as error:
            self._events.record(job, "Warning", "FailedCreate", f"Error creating: {error.message}")
            raise
        self._observe(created)
        self._events.record(job, "Normal", "SuccessfulCreate", f"Created pod: {created['metadata']['name']}")

    async def _delete(self, job: Object, pod: Object) -> None:
        metadata = pod["metadata"]
        try:
            await self._client.delete(PODS.path(metadata["namespace"], metadata["name"]), uid=metadata["uid"])
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        # Until the watch tells more: nobody should delete it again, or count it as active.
        deleting = {"deletionTimestamp": metadata["creationTimestamp"], **metadata}
        self._suppose({**pod, "metadata": deleting})
        self._events.record(job, "Normal", "SuccessfulDelete", f"Deleted pod: {metadata['name']}")

    async def _release(self, pods: list[Object]) -> None:
        """Take the tracking finalizer off, so that the pods can be deleted."""
        for pod in pods:
            metadata = pod["metadata"]
            others = [name for name in metadata["finalizers"] if name != jobpods.TRACKING]
            change = {"metadata": {"uid": metadata["uid"], "finalizers": others or None}}
            try:
                patched = await self._client.patch(PODS.path(metadata["namespace"], metadata["name"]), change)
            except ApiError as error:
                # Gone, or another pod of the same name by now: nothing left to release.
                if error.status not in (404, 409, 422):
                    raise
                self._suppose({**pod, "metadata": {**metadata, "finalizers": others}})
            else:
                self._observe(patched)
