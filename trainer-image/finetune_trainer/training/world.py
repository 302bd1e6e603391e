"""The processes that train together, as the loop sees them; one of them unless a launcher says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import torch  # stages without training know a world too, and do without torch

T = TypeVar("T")


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

    def least(self, value: int) -> int:
        """The smallest of all ranks' values."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` added over all ranks; its shape, type and device stay."""

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Adds each parameter's gradient over all ranks, in place; a rank without one counts as zeros."""

    def barrier(self) -> None:
        """Waits until all ranks are here."""

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns to the main process; the others get a copy."""

    def first_on_node(self, make: Callable[[], T]) -> T:
        """What `make` returns to one process of each node; the others there get a copy."""


class Alone:
    """A world of one process: nothing is sent, and nothing waits."""

    rank = 0
    size = 1
    is_main = True

    def any(self, flag: bool) -> bool:
        """`flag` itself."""
        return flag

    def least(self, value: int) -> int:
        """`value` itself."""
        return value

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` itself."""
        return tensor

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """They are the sum."""

    def barrier(self) -> None:
        """Nothing to wait for."""

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns."""
        return make()

    def first_on_node(self, make: Callable[[], T]) -> T:
        """What `make` returns."""
        return make()
