"""One of Olive's configurations → a FinetuneJob, with a note for everything that did not simply land in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.olive.assembly import Assembly
from finetune_api.olive.builds import NoSuchBuildError
from finetune_api.olive.contradictions import contradictions
from finetune_api.olive.copying import UNKNOWN
from finetune_api.olive.notes import Note, NoteKind
from finetune_api.olive.options import Options
from finetune_api.olive.reading import Record, Source, shown


class NotOliveError(ValueError):
    """What was given is no configuration of Olive's."""


@dataclass(frozen=True)
class Imported:
    """A job's name and spec, and what became of the input.

    notes: what is to be said. landed: the input's path of each value in the job → its field there. conda_files: the
    conda files that the input names, relative to its own folder.
    """

    name: str
    spec: dict[str, Any]
    notes: tuple[Note, ...]
    landed: Mapping[str, str]
    conda_files: tuple[str, ...]

    def job(self) -> dict[str, Any]:
        """The FinetuneJob, as YAML or JSON has it."""
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": self.name}, "spec": self.spec}


def import_config(config: Any, options: Options) -> Imported:
    """The job for Olive's `config` (its JSON, read). Raises NotOliveError where it is none, or has no such build.

    No value of `config` is lost: each is in `Imported.landed`, or it or an object around it has one of
    `Imported.notes`. The spec is as valid as the input allows: ask `finetune_api.rules.check`.
    """
    if not isinstance(config, Mapping) or "input_model" not in config or "passes" not in config:
        raise NotOliveError("an object with input_model and passes is wanted")
    record = Record()
    assembly = Assembly(Source(config, (), record).fields(), options, record)
    try:
        name, spec = assembly.name(), assembly.spec()
    except NoSuchBuildError as error:
        raise NotOliveError(str(error)) from error
    for path in record.unsaid(config):
        record.notes.append(Note(NoteKind.LEFT_OUT, shown(path), UNKNOWN))
    landed = {shown(path): target for path, target in record.landed.items()}
    record.notes += contradictions(spec, {target: path for path, target in landed.items()})
    order = list(NoteKind)
    notes = sorted(dict.fromkeys(record.notes), key=lambda note: order.index(note.kind))
    return Imported(name, spec, tuple(notes), landed, tuple(assembly.systems.conda_files))
