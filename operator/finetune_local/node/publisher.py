"""Writes a pod's status to the API server: the newest one, however often it changes, and the last one for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from finetune_local.client import PODS, STRATEGIC, ApiClient, ApiError, Object, persist


class Publisher:
    """Writes what `make` returns, each time after `news` that it differs from what was written."""

    def __init__(self, client: ApiClient, pod: Object, make: Callable[[], Object]) -> None:
        metadata = pod["metadata"]
        self._client, self._uid, self._make = client, metadata["uid"], make
        self._path = PODS.path(metadata["namespace"], metadata["name"], "status")
        self._news = asyncio.Event()
        self._last = False

    def news(self) -> None:
        """The status may have changed."""
        self._news.set()

    def finish(self) -> None:
        """The next status is the last."""
        self._last = True
        self._news.set()

    async def run(self) -> None:
        """Write until the last status is written or the pod is gone; while the server is away, try again."""
        written: Object | None = None
        while True:
            await self._news.wait()
            self._news.clear()
            last, status = self._last, self._make()
            if status != written:
                body = {"metadata": {"uid": self._uid}, "status": status}
                try:
                    await persist(lambda body=body: self._client.patch(self._path, body, STRATEGIC))
                except ApiError as error:
                    # The pod is gone, or another one has its name by now.
                    if error.status in (404, 409):
                        return
                    raise
                written = status
            if last:
                return
