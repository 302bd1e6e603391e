"""A look past the watches: what they have missed.

kopf's watches go on where they stopped. Where the server has forgotten that place they list anew, and an object that
went meanwhile is never said to be gone; a stream may also die without a word. So every object's version is listed
now and then, metadata only, and compared with what the caches hold.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from finetune_operator.caches import Body, Key
from finetune_operator.kube import ApiError, Kube

logger = logging.getLogger(__name__)

# While the caches fill: twice as long after each look, since a list of thousands costs its server something.
FIRST_SECONDS, FIRST_SECONDS_LIMIT = 0.2, 5.0
# Until the next look while a watch owes something that a list has shown.
DOUBT_SECONDS = 15.0


@dataclass(frozen=True)
class Cache:
    """One kind of object as the watches show it. `items` gives each with the FinetuneJob that it is of.

    Objects of `cluster` are in no namespace, or are namespaces.
    """

    kind: str
    selector: str
    items: Callable[[], Iterable[tuple[Key, Body]]]
    cluster: bool = False

    def versions(self) -> dict[str, tuple[Key, int]]:
        """By uid: the FinetuneJob, and the version that is held."""
        found: dict[str, tuple[Key, int]] = {}
        for key, item in self.items():
            found[item["metadata"]["uid"]] = (key, _number(item["metadata"]))
        return found


class Resync:
    """Compares `caches` with lists of `namespaces` (empty: all). `changed` is told of jobs that lost an object."""

    def __init__(
        self, caches: Iterable[Cache], namespaces: Iterable[str], changed: Callable[[Key], None], seconds: float
    ) -> None:
        self._caches, self._namespaces = list(caches), list(namespaces) or [""]
        self._changed, self._seconds = changed, seconds
        # By kind and uid: since when the watch owes which version. What is deleted meanwhile is owed by nobody, so that
        # one look is not enough: `_confirmed` was owed at two.
        self._owed: dict[str, dict[str, tuple[float, int]]] = {}
        self._confirmed: dict[str, float] = {}
        self._ghosts: dict[str, set[str]] = {}
        # By kind: what the first list had and the cache has not held yet.
        self._awaited: dict[str, set[str]] = {}
        self._looks = 0
        self._in_doubt = False

    @property
    def synced(self) -> bool:
        """Whether each cache has held all that there was at the beginning: what came since is any watch's to tell."""
        return len(self._awaited) == len(self._caches) and not any(self._awaited.values())

    def is_ghost(self, item: Mapping[str, Any]) -> bool:
        """Whether `item` is gone, though a watch still shows it."""
        return any(item["metadata"].get("uid") in uids for uids in self._ghosts.values())

    def overdue(self) -> float:
        """Seconds for which a watch has owed what lists have shown; 0 where none does."""
        return max((time.monotonic() - since for since in self._confirmed.values()), default=0.0)

    async def run(self, kube: Kube) -> None:
        """Compare until the caches are full once, then now and then, until cancelled."""
        while True:
            for cache in self._caches:
                try:
                    await self._compare(kube, cache)
                except (ApiError, aiohttp.ClientError, OSError, ValueError, KeyError) as error:
                    # Without an answer nothing is known; that the server is away is no fault of the watches.
                    logger.debug("%s could not be listed: %s", cache.kind, error)
                    break
            self._looks += 1
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        if not self.synced:
            return min(FIRST_SECONDS * 2.0 ** min(self._looks - 1, 30), FIRST_SECONDS_LIMIT)
        # One more look tells debts from what is a moment behind; where there is always some of that, one is enough.
        self._in_doubt = bool(self._confirmed) or (any(self._owed.values()) and not self._in_doubt)
        return min(self._seconds, DOUBT_SECONDS) if self._in_doubt else self._seconds

    async def _compare(self, kube: Kube, cache: Cache) -> None:
        before = cache.versions()
        listed: dict[str, int] = {}
        for namespace in [""] if cache.cluster else self._namespaces:
            listed |= await self._list(kube, cache, namespace)
        gone = before.keys() - listed.keys()
        for uid in gone - self._ghosts.get(cache.kind, set()):
            self._changed(before[uid][0])
        self._ghosts[cache.kind] = set(gone)
        self._note_owed(cache, listed)

    async def _list(self, kube: Kube, cache: Cache, namespace: str) -> dict[str, int]:
        try:
            return await kube.versions(cache.kind, namespace, cache.selector)
        except ApiError as error:
            if error.status == 404:
                # The cluster does not have the kind (a policy's definition is not installed): there are none.
                return {}
            raise

    def _note_owed(self, cache: Cache, listed: Mapping[str, int]) -> None:
        """What the watch owes: each version that a list had and the cache has not reached, since it was first owed."""
        held, before, now = cache.versions(), self._owed.get(cache.kind, {}), time.monotonic()
        self._awaited[cache.kind] = (self._awaited.get(cache.kind, set(listed)) & listed.keys()) - held.keys()
        owed: dict[str, tuple[float, int]] = {}
        still: list[float] = []
        for uid, version in listed.items():
            has = held[uid][1] if uid in held else -1
            if uid in before and has < before[uid][1]:
                owed[uid] = before[uid]
                still.append(before[uid][0])
            elif has < version:
                # What changes all the time is a moment behind at every look, and never in debt for long.
                owed[uid] = (now, version)
        self._owed[cache.kind] = owed
        if still:
            self._confirmed[cache.kind] = min(still)
        else:
            self._confirmed.pop(cache.kind, None)


def _number(meta: Mapping[str, Any]) -> int:
    """The version as a number, which it is in every Kubernetes API server; else none is ever behind."""
    text = str(meta.get("resourceVersion", ""))
    return int(text) if text.isascii() and text.isdigit() else 2**63
