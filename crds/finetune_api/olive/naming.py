"""Names of Olive's objects → names that fit a Kubernetes label, and what refers to them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from finetune_api.olive.notes import NoteKind
from finetune_api.olive.reading import Source, shown
from finetune_api.rules.names import RESERVED_NAMES, RESERVED_PREFIXES

MAX_NAME = 32


@dataclass
class Names:
    """The objects of one list of the job (`spec.systems`): Olive's name of each → its name now."""

    of: str
    ours: dict[str, str] = field(default_factory=dict)

    def new(self, name: str, source: Source) -> str:
        """A name for `source`, which Olive calls `name`, like no other of the list."""
        stem = re.sub(r"[^A-Za-z0-9_-]", "-", name)[:MAX_NAME].strip("-_") or "item"
        if stem in RESERVED_NAMES or stem.startswith(RESERVED_PREFIXES):
            stem = f"my-{stem}"[:MAX_NAME].rstrip("-_")
        candidate, number = stem, 1
        while candidate in self.ours.values():
            number += 1
            suffix = f"-{number}"
            candidate = stem[: MAX_NAME - len(suffix)] + suffix
        if candidate != name:
            source.record.add(
                NoteKind.CHANGED,
                shown(source.path),
                f"called {candidate} in {self.of}: a name fits a label, is not an operator's stage, and stands once.",
            )
        self.ours[name] = candidate
        return candidate

    def refer(self, source: Source, target: str) -> str | None:
        """Our name for the object that `source` names; None, and a note, where there is none."""
        if source.value is None:
            source.left_out("null, which is the same as leaving it out.")
            return None
        found = self.ours.get(source.value) if isinstance(source.value, str) else None
        if found is None:
            source.note(NoteKind.DECIDE, f"{source.value!r} is no item of {self.of}; {target} was left out.")
        else:
            source.land(target)
        return found
