"""A forward pass for which one rank has too little memory, where all ranks compute each layer together.

That rank stopped in the midst of a layer, and the others wait in the gathering of it, on a GPU beyond any exception's
reach: whatever it did next would not be what they wait for. So all end, and their pods' supervisors start them again
(`finetune_trainer.ranks.AGAIN`) with a smaller pass.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from finetune_trainer.ranks import AGAIN, TRIES_ENV
from finetune_trainer.training.distributed import Place

_BEGUN, _READY = "retreat", "retreat-ready"
_LOOK_SECONDS = 0.3
# Others are told within a look; one that does not answer has ended, or is ended by its supervisor.
_COMPANY_SECONDS = 15.0


class Retreat:
    """How this rank and the others leave together: by rank 0's store, over a connection of its own.

    `tries` is how often they have done so before.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.tries = int(variables.get(TRIES_ENV) or 0)
        self._place = Place.of(variables)
        self._store = dist.TCPStore(
            self._place.host,
            self._place.port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=_COMPANY_SECONDS),
        )
        self._done = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ends this process when another rank calls `now`, wherever it waits meanwhile."""
        thread = threading.Thread(target=self._watch, name="retreat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def now(self, said: str) -> NoReturn:
        """Ends all ranks' processes, to be started again; `said` tells why."""
        sys.stderr.write(f"rank {self._place.rank}: {said}; all ranks start again with a smaller pass\n")
        sys.stderr.flush()
        self._done.set()
        self._store.set(_BEGUN, said)
        self._leave()

    def _watch(self) -> None:
        # A store that is gone went with rank 0's process: what that means is not for this thread to say.
        with contextlib.suppress(dist.DistError, RuntimeError):
            while not self._done.wait(_LOOK_SECONDS):
                if self._store.check([_BEGUN]):
                    self._leave()

    def _leave(self) -> NoReturn:
        """Ends this process when all are ready to: the first to go breaks what the others wait in."""
        with contextlib.suppress(dist.DistError, RuntimeError):
            ready = self._store.add(_READY, 1)
            deadline = time.monotonic() + _COMPANY_SECONDS
            while ready < self._place.size and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS / 3)
                ready = self._store.add(_READY, 0)
            if self._place.rank == 0:
                time.sleep(2 * _LOOK_SECONDS)  # the store is here, and the others still read it
        os._exit(AGAIN)
