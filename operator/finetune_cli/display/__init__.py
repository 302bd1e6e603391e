"""Showing a run as it happens: a tree with bars on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

from rich.console import Console

from finetune_api.status import Status
from finetune_cli.display.lines import Lines
from finetune_cli.display.live import Tree


class Display(Protocol):
    """Something that shows one status after the other."""

    def update(self, status: Status) -> None:
        """Show what changed."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def display(console: Console) -> Display:
    """What suits the terminal, or the file, behind `console`."""
    return Tree(console) if console.is_terminal else Lines(partial(print, flush=True), time.monotonic)
