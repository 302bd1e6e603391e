"""Watches: what changes, as it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from finetune_local.apiserver.errors import ApiError, bad_request, expired
from finetune_local.apiserver.objects import Object, encode
from finetune_local.apiserver.routing import is_true
from finetune_local.apiserver.selection import Selection
from finetune_local.apiserver.store import Change, Entry, Store
from finetune_local.apiserver.views import Renderer

_BOOKMARK_SECONDS = 15.0
"""How long a watch is silent before a bookmark says that it lives and where it is."""
_LONGEST_SECONDS = 1800.0
_BATCH = 256


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """The query of a watch."""

    revision: int | None = None
    """Where to go on from; None: with the present objects first."""
    bookmarks: bool = False
    initial_events: bool = False
    seconds: float = _LONGEST_SECONDS

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> WatchOptions:
        """Raises a 400 for what is no number, a 422-like refusal for contradictions."""
        text = query.get("resourceVersion", "")
        initial = is_true(query.get("sendInitialEvents"))
        try:
            revision = int(text) if text not in ("", "0") else None
            seconds = float(query.get("timeoutSeconds") or _LONGEST_SECONDS)
        except ValueError as error:
            raise bad_request(f"invalid watch options: {error}") from error
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            raise ApiError(
                422,
                "Invalid",
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to "
                "NotOlderThan",
            )
        if "sendInitialEvents" in query and not initial and revision is None:
            # Asked not to be told what is there: only what changes from now on.
            return cls(-1, is_true(query.get("allowWatchBookmarks")), seconds=seconds)
        return cls(None if initial else revision, is_true(query.get("allowWatchBookmarks")), initial, seconds)


class Watch:
    """One client's watch of one bucket."""

    def __init__(self, store: Store, selection: Selection, renderer: Renderer, options: WatchOptions) -> None:
        self._store = store
        self._selection = selection
        self._renderer = renderer
        self._options = options
        self._history = store.history(selection.bucket)
        self._first = True
        revision = options.revision
        self._refusal = ""
        if revision is not None and 0 <= revision < self._history.floor:
            self._refusal = f"too old resource version: {revision} ({self._history.floor})"
        elif revision is not None and revision > store.revision:
            # From another life of a server that keeps nothing: what this client knows is not what is here.
            self._refusal = f"resource version {revision} is larger than any of this server ({store.revision})"
        if self._refusal or revision is None or revision < 0:
            self._position = self._history.end
        else:
            self._position = self._history.position_after(revision)

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines to send, joined where several are due at once."""
        if self._refusal:
            # As Kubernetes does: what is wrong with a version is said on the watch, not instead of it.
            yield _gone(self._refusal)
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + self._options.seconds
        if self._options.revision is None:
            yield self._initial()
        while (left := end - loop.time()) > 0:
            changes = self._history.since(self._position)
            if changes is None:
                yield _gone(f"too old resource version: {self._options.revision or 0}")
                return
            if changes:
                batch = changes[:_BATCH]
                self._position += len(batch)
                data = b"".join(self._told(change) for change in batch)
                if data:
                    yield data
                continue
            if not await self._history.wait(min(left, _BOOKMARK_SECONDS)) and self._options.bookmarks:
                yield self._renderer.bookmark(self._store.revision)

    def _initial(self) -> bytes:
        entries = self._selection.entries(self._store)
        lines = [self._line("ADDED", entry) for entry in entries]
        if self._options.initial_events and self._options.bookmarks:
            lines.append(self._renderer.bookmark(self._store.revision, initial_end=True))
        return b"".join(lines)

    def _told(self, change: Change) -> bytes:
        """What this client is told of a change: an object may enter or leave its selection by it."""
        now = change.type != "DELETED" and self._selection.matches(change.entry)
        before = change.previous is not None and self._selection.matches(change.previous)
        if now:
            return self._line("MODIFIED" if before else "ADDED", change.entry)
        if not before:
            return b""
        if change.type == "DELETED":
            return self._line("DELETED", change.entry)
        return self._line("DELETED", _as_last_selected(change))

    def _line(self, kind: str, entry: Entry) -> bytes:
        line = self._renderer.event(kind, entry, first=self._first)
        self._first = False
        return line


def _as_last_selected(change: Change) -> Entry:
    """The object as it was while it was selected, under the revision at which it no longer is."""
    previous = change.previous or change.entry
    metadata = {**previous.obj["metadata"], "resourceVersion": str(change.entry.revision)}
    obj: Object = {**previous.obj, "metadata": metadata}
    return Entry(previous.bucket, obj, encode(obj), change.entry.revision)


def _gone(message: str) -> bytes:
    return encode({"type": "ERROR", "object": expired(message).status()}) + b"\n"
