"""Events, as `kubectl describe` shows them: written behind the work, counted instead of repeated."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from uuid import uuid4

from finetune_local.client import EVENTS, ApiClient, ApiError, Object, may_pass
from finetune_operator.times import rfc3339

logger = logging.getLogger(__name__)

REMEMBERED = 4096
LONGEST_QUEUE = 10_000
PAUSE = 0.1


class EventRecorder:
    """Writes Events of one component. `record` never waits, and a lost event never disturbs the work it tells of."""

    def __init__(self, client: ApiClient, component: str, host: str = "") -> None:
        self._client = client
        self._source = {"component": component, **({"host": host} if host else {})}
        self._queue: asyncio.Queue[tuple[Object, str, str, str, str]] = asyncio.Queue(LONGEST_QUEUE)
        # (uid, reason, message) → (event's name, how often it was told)
        self._told: OrderedDict[tuple[str, str, str], tuple[str, int]] = OrderedDict()

    def record(self, subject: Object, kind: str, reason: str, message: str) -> None:
        """Tell of `subject`; `kind` is Normal or Warning."""
        try:
            self._queue.put_nowait((subject, kind, reason, message[:1024], rfc3339(datetime.now(UTC))))
        except asyncio.QueueFull:
            logger.warning("event dropped, %d wait already: %s %s", LONGEST_QUEUE, reason, message)

    async def run(self) -> None:
        """Write what is recorded until cancelled."""
        while True:
            entry = await self._queue.get()
            # The work that the event tells of goes first; a burst waits once.
            if self._queue.empty():
                await asyncio.sleep(PAUSE)
            try:
                await self._write(*entry)
            except Exception as error:
                if not (isinstance(error, ApiError) or may_pass(error)):
                    raise
                # The subject's namespace may be gone, or the server away: the event has lost its meaning.
                logger.debug("event %s of %s not written: %s", entry[2], entry[0]["metadata"]["name"], error)

    async def _write(self, subject: Object, kind: str, reason: str, message: str, now: str) -> None:
        metadata = subject["metadata"]
        namespace = metadata.get("namespace", "default")
        key = (metadata["uid"], reason, message)
        name, count = self._told.get(key, ("", 0))
        if count:
            change = {"count": count + 1, "lastTimestamp": now}
            await self._client.patch(EVENTS.path(namespace, name), change)
        else:
            name = f"{metadata['name']}.{uuid4().hex[:16]}"
            await self._client.create(
                EVENTS.path(namespace),
                {
                    "apiVersion": "v1",
                    "kind": "Event",
                    "metadata": {"name": name, "namespace": namespace},
                    "involvedObject": {
                        "apiVersion": subject["apiVersion"],
                        "kind": subject["kind"],
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        **({"namespace": metadata["namespace"]} if "namespace" in metadata else {}),
                    },
                    "type": kind,
                    "reason": reason,
                    "message": message,
                    "source": self._source,
                    "reportingComponent": self._source["component"],
                    "reportingInstance": self._source.get("host", ""),
                    "firstTimestamp": now,
                    "lastTimestamp": now,
                    "count": 1,
                },
            )
        self._told[key] = (name, count + 1)
        self._told.move_to_end(key)
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
