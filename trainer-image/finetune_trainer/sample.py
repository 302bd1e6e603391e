"""A row as text, on its way to tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A rendered row. The completion is `text[completion_start:]`; 0 where a row has no prompt.

    `turns` are the half-open ranges of characters that a chat's assistant says; empty where the row is no chat.
    `ends_itself` says that a chat template wrote the text, which may have ended it with a token of its own.
    """

    text: str
    completion_start: int
    turns: tuple[tuple[int, int], ...] | None = None
    ends_itself: bool = False

    def learned(self) -> tuple[tuple[int, int], ...]:
        """The ranges of characters that completionOnlyLoss learns."""
        return ((self.completion_start, len(self.text)),) if self.turns is None else self.turns
