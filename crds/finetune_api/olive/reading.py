"""Reading a configuration so that nothing of it can be lost: every value lands somewhere, or there is a note.

A `Source` is one value and where it stands. Whoever uses it says what became of it, to the `Record` that all of one
input share; `Record.unsaid` are the values of which nobody said anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_api.olive.notes import Note, NoteKind

Path = tuple[str | int, ...]


def shown(path: Path) -> str:
    """`path` as people write it: `passes.lora.config.r`, `data_configs[0].name`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all values that hold no others; an empty object or list is one."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    steps = list(inner)
    if not steps:
        yield path
    for step, item in steps:
        yield from leaves(item, (*path, step))


@dataclass
class Record:
    """What became of each value of one input. What is said of an object or list holds for all that is in it."""

    landed: dict[Path, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    noted: set[Path] = field(default_factory=set)

    def add(self, kind: NoteKind, path: str, message: str) -> None:
        """A note that is about no value of the input: something was added."""
        self.notes.append(Note(kind, path, message))

    def unsaid(self, value: Any) -> list[Path]:
        """The leaves of the input `value` that neither landed nor have a note."""
        return [path for path in leaves(value) if not self._said(path)]

    def _said(self, path: Path) -> bool:
        above = [path[:length] for length in range(len(path) + 1)]
        return any(part in self.landed or part in self.noted for part in above)


@dataclass(frozen=True)
class Source:
    """One value of the input."""

    value: Any
    path: Path
    record: Record

    def land(self, target: str) -> None:
        """The value is at `target` of the job now, in the same or in another spelling."""
        self.record.landed[self.path] = target

    def note(self, kind: NoteKind, message: str) -> None:
        """Say what became of the value."""
        self.record.noted.add(self.path)
        self.record.notes.append(Note(kind, shown(self.path), message))

    def left_out(self, reason: str) -> None:
        """The value is not in the job, for `reason`, which says what happens instead."""
        self.note(NoteKind.LEFT_OUT, reason)

    def fields(self, *wrappers: str) -> dict[str, Source]:
        """The members of an object, those of its `wrappers` (`config`, `params`) among them.

        Where a member stands in both, the wrapped one counts. What is no object has no members, and gets a note.
        """
        if self.value is None:
            self.left_out("null, which is the same as leaving it out.")
            return {}
        if not isinstance(self.value, Mapping):
            self.note(NoteKind.DECIDE, f"an object is wanted here, this is {self.value!r}; it was left out.")
            return {}
        outer = {str(key): Source(item, (*self.path, key), self.record) for key, item in self.value.items()}
        for wrapper in wrappers:
            for key, item in outer.pop(wrapper).fields().items() if wrapper in outer else ():
                if key in outer:
                    outer[key].left_out(f"{shown(item.path)} says it too, and counts.")
                outer[key] = item
        return outer

    def items(self) -> list[Source]:
        """The items of a list; a single value is a list of one."""
        values = self.value if isinstance(self.value, list) else None
        if values is None:
            return [self]
        return [Source(item, (*self.path, index), self.record) for index, item in enumerate(values)]

    def named(self) -> list[tuple[str, Source]]:
        """(name, value) of a map of named things, or of a list whose items carry their `name`."""
        if isinstance(self.value, list):
            return [(_name_in(item.value, index), item) for index, item in enumerate(self.items())]
        pairs: list[tuple[str, Source]] = []
        for name, item in self.fields().items():
            alternatives = item.items()
            pairs += [(name if index == 0 else f"{name}-{index + 1}", each) for index, each in enumerate(alternatives)]
        return pairs


def _name_in(value: Any, index: int) -> str:
    name = value.get("name") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) and name else f"item-{index + 1}"
