"""A local cache of one kind of object that follows the server: list, watch, resume, list again when history is gone."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import aclosing

from finetune_local.client import FIRST_PAUSE, LONGEST_PAUSE, ApiClient, ApiError, Object, Resource, may_pass, uid_of

logger = logging.getLogger(__name__)

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"
REMEMBERED_DELETIONS = 4096


class Informer:
    """All objects of `resource` by uid, kept up to date; `on_change(type, object)` hears of every change once.

    A DELETED change carries the last state that was seen. While the server is away the cache stays as it is; the
    changes of that time are told when it is back. What this process writes itself is put in with `observe`, so that
    a decision made right after a write does not rest on the state before it. The server's resourceVersions are
    taken to be numbers that grow, as those of every Kubernetes API server are.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        on_change: Callable[[str, Object], None],
        *,
        namespace: str | None = None,
        field_selector: str = "",
    ) -> None:
        self._client = client
        self._path = resource.path(namespace)
        self._kind, self._api_version = resource.kind, resource.api_version
        self._on_change = on_change
        self._query = {"fieldSelector": field_selector} if field_selector else {}
        self._items: dict[str, Object] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self.synced = asyncio.Event()

    def get(self, uid: str) -> Object | None:
        """The object with `uid`, as last seen."""
        return self._items.get(uid)

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._items.values()))

    def observe(self, item: Object) -> bool:
        """Take in what a write returned; its echo on the watch is then no news. False: the object is gone already."""
        uid = uid_of(item)
        if uid in self._gone:
            return False
        known = self._items.get(uid)
        if known is None or _version(known) < _version(item):
            self._items[uid] = item
        return True

    async def run(self) -> None:
        """Follow the server until cancelled. Raises ApiError where it refuses for good (403, 404, 400)."""
        wait = FIRST_PAUSE
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list()
                    self.synced.set()
                    wait = FIRST_PAUSE
                async with aclosing(self._client.watch(self._path, version, **self._query)) as changes:
                    async for kind, item in changes:
                        version = item["metadata"]["resourceVersion"]
                        wait = FIRST_PAUSE
                        if kind != "BOOKMARK":
                            self._take(kind, item)
            except ApiError as error:
                if error.status == 410:
                    version = None
                    continue
                if not error.passing:
                    raise
                wait = await self._pause(wait, error)
            except Exception as error:
                if not may_pass(error):
                    raise
                wait = await self._pause(wait, error)

    async def _pause(self, wait: float, error: Exception) -> float:
        logger.debug("%s: %s; again in %.2f s", self._path, error, wait)
        await asyncio.sleep(wait)
        return min(wait * 2, LONGEST_PAUSE)

    async def _list(self) -> str:
        answer = await self._client.get(self._path, **self._query)
        fresh: dict[str, Object] = {}
        for item in answer["items"]:
            # Items of a list carry no type of their own.
            item.setdefault("kind", self._kind)
            item.setdefault("apiVersion", self._api_version)
            fresh[uid_of(item)] = item
        for uid in [uid for uid in self._items if uid not in fresh]:
            self._take(DELETED, self._items[uid])
        for item in fresh.values():
            self._take(MODIFIED, item)
        return answer["metadata"]["resourceVersion"]

    def _take(self, kind: str, item: Object) -> None:
        uid = uid_of(item)
        if kind == DELETED:
            self._items.pop(uid, None)
            # The answer to a write may come after the news that its object is gone.
            self._gone[uid] = None
            while len(self._gone) > REMEMBERED_DELETIONS:
                self._gone.popitem(last=False)
            self._on_change(DELETED, item)
            return
        known = self._items.get(uid)
        if known is not None and _version(known) >= _version(item):
            return
        self._items[uid] = item
        self._on_change(ADDED if known is None else MODIFIED, item)


def _version(item: Object) -> int:
    return int(item["metadata"]["resourceVersion"])
