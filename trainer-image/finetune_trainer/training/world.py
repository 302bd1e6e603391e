"""The processes that train together, as the loop sees them; one of them unless a launcher says otherwise."""

from __future__ import annotations

from typing import Protocol

import torch


class World(Protocol):
    """All ranks of a training. Every method but the properties is a collective: all ranks call it, in one order."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    @property
    def is_main(self) -> bool:
        """Whether this process alone reports, and talks to the store."""

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on some rank; the same answer on all."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` added over all ranks; its shape, type and device stay."""

    def barrier(self) -> None:
        """Waits until all ranks are here."""


class Alone:
    """A world of one process: nothing is sent, and nothing waits."""

    rank = 0
    size = 1
    is_main = True

    def any(self, flag: bool) -> bool:
        """`flag` itself."""
        return flag

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` itself."""
        return tensor

    def barrier(self) -> None:
        """Nothing to wait for."""
