"""How kopf watches for this operator: label selectors, patience, and none of the work that no handler here asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import kopf

from finetune_operator import labels

# Seconds between tries of a list or a watch that fails; the last one holds for ever.
BACKOFFS = (1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 30.0)


def configure(settings: kopf.OperatorSettings, request_timeout: float) -> None:
    """Set kopf up. Requests of `request_timeout` seconds; watches live for minutes."""
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.watching.server_timeout = 5 * 60
    settings.watching.label_selectors["batch", "v1", "jobs"] = labels.SELECTOR
    settings.watching.label_selectors["", "v1", "pods"] = labels.SELECTOR
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = request_timeout
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Patience()
    settings.queueing.idle_timeout = 1.0


class Patience:
    """Back-offs without end: with kopf's own ones, an API server that is away for a minute ends the operator."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain(BACKOFFS, itertools.repeat(BACKOFFS[-1]))


class NoDiffBase(kopf.DiffBaseStorage):
    """Spares kopf two deep copies of every object at every event: no handler here asks for a difference."""

    def build(self, **_: Any) -> Any:
        """Nothing to compare."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Nothing was stored."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""
