"""What an import says beside its result: one note for everything that did not simply land in the job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NoteKind(StrEnum):
    """Why a note is there, in the order in which a reader wants them."""

    DECIDE = "to decide"
    CONTRADICTS = "contradicts itself"
    CHANGED = "changed"
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class Note:
    """`path` is a key of the input (`passes.lora.config.double_quant`), or a field of the job (`spec.storage`)."""

    kind: NoteKind
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"
