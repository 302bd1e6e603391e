"""What there is, as far as this process knows: what the watches show, put right by its own writes and by lists.

A watch lags behind what was written here, and may never say that an object went (`resync`). A decision that rests on
less than what is known would be made twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import kopf

from finetune_api import GROUP, PLURAL, VERSION
from finetune_api.status import StageState
from finetune_operator import labels
from finetune_operator.caches import Body, Echoes, Key, is_same, slim
from finetune_operator.kube import Kube
from finetune_operator.observe import Attempt
from finetune_operator.resync import Cache
from finetune_operator.view import JobView

# How long a Job that was made here counts as there while the watch does not show it.
WATCH_LAG = 15.0
AT_WORK = (StageState.PENDING, StageState.QUEUED, StageState.RUNNING)
# Server-side filters of the watches on Jobs and pods.
OWN = {labels.MANAGED_BY: labels.OPERATOR}

Index = Mapping[Key, Iterable[Body]]


class Watched:
    """FinetuneJobs, and the Jobs and pods of each."""

    def __init__(self) -> None:
        self._finetune_jobs: Index = {}
        self._jobs: Index = {}
        self._pods: Index = {}
        # Jobs made here that the watch has not shown yet: without them the next look would miss them.
        self._created: dict[Key, dict[str, tuple[float, Body]]] = {}
        self._echoes = Echoes()
        # Whether an object is gone though a watch still shows it.
        self.is_ghost: Callable[[Body], bool] = lambda _: False

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Hang the indices into kopf."""
        own: dict[str, Any] = {"labels": OWN, "registry": registry}
        kopf.index(GROUP, VERSION, PLURAL, id="finetune_jobs", registry=registry)(self.index_finetune_job)
        kopf.index("batch", "v1", "jobs", id="stage_jobs", **own)(self.index_child)
        kopf.index("", "v1", "pods", id="stage_pods", **own)(self.index_child)

    def start(self, indices: Mapping[str, Any]) -> None:
        """Take over kopf's indices."""
        self._finetune_jobs = indices["finetune_jobs"]
        self._jobs, self._pods = indices["stage_jobs"], indices["stage_pods"]

    def caches(self) -> list[Cache]:
        """What is compared with lists."""
        return [
            Cache("FinetuneJob", "", self.shown),
            Cache("Job", labels.SELECTOR, lambda: _items(self._jobs)),
            Cache("Pod", labels.SELECTOR, self.pods),
        ]

    # Coroutines, though nothing in them waits: kopf calls plain functions in threads.

    async def index_finetune_job(self, body: kopf.Body, namespace: str | None, name: str, **_: Any) -> Any:
        """FinetuneJobs by namespace and name."""
        return {(namespace or "", name): slim(body)}

    async def index_child(self, body: kopf.Body, namespace: str | None, **_: Any) -> Any:
        """Jobs and pods by the FinetuneJob that their labels name."""
        key = owner_of(body, namespace)
        return {key: slim(body)} if key else None

    # --- what there is

    def finetune_job(self, key: Key) -> Body | None:
        """A FinetuneJob in its newest known state."""
        return self._echoes.newest(key, next(self._there(self._finetune_jobs, key), None))

    def finetune_jobs(self, namespace: str | None = None) -> Iterator[tuple[Key, Body]]:
        """All FinetuneJobs, or those of a namespace."""
        for key in list(self._finetune_jobs):
            if namespace in (None, key[0]) and (body := self.finetune_job(key)) is not None:
                yield key, body

    def shown(self) -> list[tuple[Key, Body]]:
        """All FinetuneJobs as the watch shows them; changes nothing, and may be asked from another thread."""
        return _items(self._finetune_jobs)

    def jobs_of(self, key: Key) -> Iterator[Body]:
        """The Jobs of a FinetuneJob that the watch shows."""
        return self._there(self._jobs, key)

    def pods_of(self, key: Key) -> Iterator[Body]:
        """The pods of a FinetuneJob."""
        return self._there(self._pods, key)

    def pods(self) -> list[tuple[Key, Body]]:
        """Every pod, with the FinetuneJob that it is of."""
        return _items(self._pods)

    async def unshown_jobs(self, kube: Kube, key: Key, view: JobView) -> list[Body]:
        """Jobs that there are and that the watch does not show, or not yet.

        Those that were made here a moment ago count; those that status has at work are asked for, because a watch may
        lag (another replica's, say), and a Job that was taken away must be known as gone.
        """
        shown = {job["metadata"]["name"] for job in self.jobs_of(key)}
        fresh = {
            name: (since, job)
            for name, (since, job) in self._created.get(key, {}).items()
            if name not in shown and time.monotonic() - since < WATCH_LAG
        }
        self._created[key] = fresh
        recorded = {stage.job for stage in view.status.stages if stage.job and stage.state in AT_WORK}
        asked = [await kube.get("Job", key[0], name) for name in sorted(recorded - shown - fresh.keys())]
        return [job for _, job in fresh.values()] + [slim(job) for job in asked if job is not None]

    def any_unwatched(self, key: Key, attempts: Iterable[Attempt]) -> bool:
        """Whether one at work is not on the watch, as one whose labels somebody took: no event will tell its end."""
        shown = {job["metadata"]["name"] for job in self.jobs_of(key)}
        return any(not attempt.finished and attempt.name not in shown for attempt in attempts)

    def _there(self, index: Index, key: Key) -> Iterator[Body]:
        return (item for item in index.get(key, ()) if not self.is_ghost(item))

    # --- what is heard, done and found out

    def heard(self, key: Key, body: Mapping[str, Any]) -> bool:
        """The watch shows a FinetuneJob; whether that is no news: what was written here, or older."""
        return self._echoes.heard(key, body)

    def knows_job(self, key: Key, body: Mapping[str, Any]) -> bool:
        """Whether the watch shows a Job as it was made here."""
        made = self._created.get(key, {}).get(body["metadata"]["name"])
        return made is not None and is_same(body, made[1])

    def wrote(self, key: Key, body: Body) -> None:
        """A FinetuneJob's status was written."""
        self._echoes.wrote(key, body)

    def created(self, key: Key, job: Body) -> None:
        """A Job was made, or found where it was to be made."""
        self._created.setdefault(key, {})[job["metadata"]["name"]] = (time.monotonic(), slim(job))

    def forget(self, key: Key) -> None:
        """The FinetuneJob is gone."""
        self._created.pop(key, None)
        self._echoes.forget(key)


def owner_of(body: Mapping[str, Any], namespace: str | None) -> Key | None:
    """The FinetuneJob that a Job's or pod's labels name."""
    owner = (body["metadata"].get("labels") or {}).get(labels.JOB)
    return (namespace or "", owner) if owner else None


def _items(index: Index) -> list[tuple[Key, Body]]:
    return [(key, item) for key in list(index) for item in index.get(key, ())]
