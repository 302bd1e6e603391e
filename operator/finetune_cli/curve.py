"""A training's figures as curves in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import ValidationError

from finetune_api.stage import Progress


@dataclass
class Curve:
    """A figure by optimizer step; losses are in nats per learned token."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Iterable[str], figure: str = "loss") -> Curve:
        """`figure` (loss, eval_loss, learning_rate, grad_norm) of a trainer's lines of progress; others are left."""
        found = cls()
        for line in lines:
            if not line.startswith("{"):
                continue
            try:
                said = Progress.model_validate_json(line)
            except ValidationError:
                continue
            value = getattr(said, figure)
            if said.step is not None and value is not None:
                found.steps.append(said.step)
                found.values.append(value)
        return found

    def __len__(self) -> int:
        return len(self.steps)


def drawn(curve: Curve, title: str, width: int, height: int) -> str:
    """`curve` as a picture of `width` × `height` characters, axes not counted."""
    # Imports numpy, which no other command needs.
    from uniplot import plot_to_string  # noqa: PLC0415

    return plot_to_string(
        xs=curve.steps, ys=curve.values, lines=True, width=width, height=height, title=title, color=False
    )
