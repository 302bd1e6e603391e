"""A run's stages as a tree that stays in its place on a terminal and changes as they do."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console, RenderableType
from rich.live import Live

from finetune_api.status import Status
from finetune_cli.display.tree import stages

REFRESHES_PER_SECOND = 4


class Tree:
    """`finetune status`'s stages, drawn anew several times a second: times go on, and what says no total pulses."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = Status()
        self._live = Live(
            console=console, get_renderable=self.picture, refresh_per_second=REFRESHES_PER_SECOND, transient=False
        )
        self._live.start()

    def update(self, status: Status) -> None:
        """Show every stage as it is."""
        self._status = status
        self._live.refresh()

    def close(self) -> None:
        """Leave the last picture, and give the terminal back."""
        self._live.stop()

    def picture(self) -> RenderableType:
        """The stages as they are now."""
        return stages(self._console, self._status, datetime.now(UTC).isoformat(), pulse=True)
