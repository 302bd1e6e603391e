"""SIGTERM and SIGINT: they end a stage where it is, or at the next safe point of what holds them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.failures import TerminatedError


class Termination:
    """Whether the stage was asked to end, and whether that may interrupt what it does."""

    def __init__(self) -> None:
        self.requested = False
        self._held = False

    def request(self) -> None:
        """Asks the stage to end; what a signal's handler calls. Raises TerminatedError where nothing holds it."""
        self.requested = True
        if not self._held:
            raise TerminatedError

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, a request only sets `requested`, and whoever holds it ends in time, by TerminatedError.

        Raises TerminatedError at the end where a request came and was not answered.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.requested:
            raise TerminatedError
