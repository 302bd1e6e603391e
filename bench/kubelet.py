"""Job controller and node in one, that run nothing: they write what the real ones would, at the given time.

A thousand live pods as processes are more than a laptop holds, and what is measured here is the operator. For every
Job a pod is made, said to run, and said to have ended with the result of a stage that computed nothing; then the Job
is said to be complete. All of it goes through the API server, as the real ones' words do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from noop_trainer import answer

from finetune_api.stage import STAGE_ENV, StageDocument
from finetune_local.client import JOBS, PODS, ApiClient, ApiError, Object, uid_of
from finetune_local.controllers.jobpods import new_pod
from finetune_local.informer import DELETED, Informer
from finetune_operator.times import rfc3339


class Kubelet:
    """Answers every Job of the cluster. `seconds` gives how long a stage runs; `heard` is told every Job's change."""

    def __init__(
        self, client: ApiClient, seconds: Callable[[], float], heard: Callable[[str, Object], None] = lambda *_: None
    ) -> None:
        self._client, self._seconds, self._heard = client, seconds, heard
        self._jobs = Informer(client, JOBS, self._changed)
        self._known: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await self._jobs.run()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def failures(self) -> list[BaseException]:
        """What went wrong here, and would make the measurement worthless."""
        return [error for task in self._tasks if task.done() and not task.cancelled() and (error := task.exception())]

    def _changed(self, kind: str, job: Object) -> None:
        self._heard(kind, job)
        if kind == DELETED or uid_of(job) in self._known:
            return
        self._known.add(uid_of(job))
        task = asyncio.create_task(self._live(job))
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)

    async def _live(self, job: Object) -> None:
        """One Job, from its pod's start to its completion; one that is deleted meanwhile is nobody's business."""
        try:
            await self._run_pod(job)
        except ApiError as error:
            if error.status != 404:
                raise

    async def _run_pod(self, job: Object) -> None:
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        pod = new_pod(job, None)
        del pod["metadata"]["finalizers"]
        pod = await self._client.create(PODS.path(namespace), pod)
        path = PODS.path(namespace, pod["metadata"]["name"], "status")
        await self._client.patch(path, {"status": {"phase": "Running", "startTime": _now()}})
        await self._client.patch(JOBS.path(namespace, name, "status"), {"status": {"active": 1, "startTime": _now()}})
        await asyncio.sleep(self._seconds())
        await self._client.patch(path, {"status": _ended(pod)})
        await self._client.patch(JOBS.path(namespace, name, "status"), {"status": _complete()})


def spread(mean: float, seed: int) -> Callable[[], float]:
    """Durations around `mean`, so that stages do not end in step."""
    numbers = random.Random(seed)
    return lambda: numbers.uniform(0.5, 1.5) * mean


def _now() -> str:
    return rfc3339(datetime.now(UTC))


def _ended(pod: Object) -> dict[str, Any]:
    container = pod["spec"]["containers"][0]
    environment = {item["name"]: item.get("value", "") for item in container["env"]}
    result = answer(StageDocument.model_validate_json(environment[STAGE_ENV]))
    terminated = {"exitCode": 0, "reason": "Completed", "message": result.model_dump_json(exclude_none=True)}
    status = {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": {**terminated, "startedAt": _now(), "finishedAt": _now()}},
    }
    return {"phase": "Succeeded", "containerStatuses": [status]}


def _complete() -> dict[str, Any]:
    now = _now()
    conditions = [
        {
            "type": kind,
            "status": "True",
            "reason": "CompletionsReached",
            "lastTransitionTime": now,
            "lastProbeTime": now,
        }
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    return {"active": None, "succeeded": 1, "completionTime": now, "conditions": conditions}
