"""Running pods' last lines, at intervals: how far each stage is. Best effort; no decision depends on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import aiohttp

from finetune_api.status import StageProgress
from finetune_operator import labels
from finetune_operator.caches import Body, Key
from finetune_operator.kube import ApiError, Kube
from finetune_operator.manifests import CONTAINER
from finetune_operator.pods import rank
from finetune_operator.progress import LIMIT_BYTES, TAIL_LINES, last_progress
from finetune_operator.settings import Settings

logger = logging.getLogger(__name__)
# From this number of running pods on, the interval grows with their number.
MANY = 100


class Poller:
    """Asks `pods` for their progress. `changed` is told each key whose progress is another than before."""

    def __init__(
        self, settings: Settings, pods: Callable[[], Iterable[tuple[Key, Body]]], changed: Callable[[Key], None]
    ) -> None:
        self._settings, self._pods, self._changed = settings, pods, changed
        self._progress: dict[Key, dict[str, StageProgress]] = {}

    def of(self, key: Key) -> dict[str, StageProgress]:
        """The newest progress of a FinetuneJob, by its Job's name."""
        return self._progress.get(key, {})

    def forget(self, key: Key) -> None:
        """The FinetuneJob is gone."""
        self._progress.pop(key, None)

    async def run(self, kube: Kube) -> None:
        """Ask every progress_interval, slower when many run, until cancelled."""
        budget = asyncio.Semaphore(self._settings.progress_in_flight)
        while True:
            running = [(key, pod) for key, pod in self._pods() if _speaks(pod)]
            await asyncio.gather(*(self._read(kube, key, pod, budget) for key, pod in running))
            await asyncio.sleep(self._settings.progress_interval * max(1.0, len(running) / MANY))

    async def _read(self, kube: Kube, key: Key, pod: Body, budget: asyncio.Semaphore) -> None:
        meta = pod["metadata"]
        job = (meta.get("labels") or {}).get(labels.JOB_NAME, "")
        try:
            async with budget:
                tail = await kube.log_tail(key[0], meta["name"], CONTAINER, TAIL_LINES, LIMIT_BYTES)
            progress = last_progress(tail)
        except (ApiError, aiohttp.ClientError, OSError) as error:
            logger.debug("%s/%s: no progress from %s: %s", *key, meta["name"], error)
            return
        except Exception:
            # One pod's words must not end the reading of all others'.
            logger.exception("%s/%s: no progress from %s", *key, meta["name"])
            return
        if progress is not None and self.of(key).get(job) != progress:
            self._progress[key] = {job: progress}
            self._changed(key)


def _speaks(pod: Body) -> bool:
    """Whether the pod runs, and of the pods that run a stage together it is the one that reports."""
    return (pod.get("status") or {}).get("phase") == "Running" and rank(pod) == 0
