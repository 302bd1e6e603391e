"""Kueue's Workloads as the controller asks for them: one list per namespace and interval, and none without Kueue.

They are asked for only while a Job waits in a queue, and only to say why: what is decided follows from the Jobs, which
are watched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from finetune_operator.kube import ApiError, Kube
from finetune_operator.kueue import GROUP, Queues, queues

# How long an answer is good for, and how long it is taken for granted that there is, or is not, a Kueue.
FRESH_SECONDS = 10.0
VERSION_SECONDS = 300.0
logger = logging.getLogger(__name__)


class Workloads:
    """What Kueue shows, remembered for a few seconds."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._known: dict[str, tuple[float, Queues | None]] = {}
        self._version: tuple[float, str | None] | None = None

    async def of(self, namespace: str, jobs: Iterable[Mapping[str, Any]]) -> Queues | None:
        """The queues of a namespace, if one of `jobs` waits in one; None where nothing waits or nothing may be seen."""
        if not any(job.get("spec", {}).get("suspend") for job in jobs):
            return None
        now = time.monotonic()
        known = self._known.get(namespace)
        if known is None or now - known[0] > FRESH_SECONDS:
            self._known = {name: item for name, item in self._known.items() if now - item[0] <= FRESH_SECONDS}
            known = self._known[namespace] = (now, await self._ask(namespace))
        return known[1]

    async def _ask(self, namespace: str) -> Queues | None:
        try:
            version = await self._served()
            return Queues(present=False) if version is None else queues(await self._kube.workloads(namespace, version))
        except (ApiError, aiohttp.ClientError, OSError) as error:
            logger.warning("%s: Kueue's Workloads cannot be read: %s", namespace, error)
            return None

    async def _served(self) -> str | None:
        """The version that the API server prefers of Kueue's API; None where it has none."""
        now = time.monotonic()
        if self._version is None or now - self._version[0] > VERSION_SECONDS:
            self._version = (now, await self._kube.preferred_version(GROUP))
        return self._version[1]
