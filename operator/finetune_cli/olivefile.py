"""Olive's configuration file → a FinetuneJob, and what is to be said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from finetune_api.olive import Imported, Note, NoteKind, NotOliveError, Options, import_config
from finetune_api.olive.conda import packages
from finetune_cli.errors import invalid
from finetune_cli.jobfile import STDIN, read_text
from finetune_cli.trainer_packages import trainer_packages
from finetune_cli.yamltext import documents

_HEADINGS = {
    NoteKind.DECIDE: "To decide",
    NoteKind.CONTRADICTS: "Has no effect, or contradicts itself",
    NoteKind.CHANGED: "Changed",
    NoteKind.LEFT_OUT: "Left out",
}


def import_file(path: str, options: Options) -> Imported:
    """The job for Olive's configuration `path`, JSON or YAML; the file may name it. Raises CliError."""
    config = _read(path)
    folder = folder_of(path)
    named = options.name or (_stem(path) if not _has_name(config) else None)
    options = replace(options, name=named, exists=lambda text: (folder / text).is_dir())
    try:
        return import_config(config, options)
    except NotOliveError as error:
        raise invalid(f"{path} is no configuration of Olive's: {error}") from error


def folder_of(path: str) -> Path:
    """The folder that the file's relative paths start from."""
    return Path.cwd() if path == STDIN else Path(path).absolute().parent


def conda_lines(imported: Imported, path: str, given: str | None) -> list[str]:
    """What becomes of each package of the conda files: `given`, else those that the input names and that are there."""
    files = [given] if given else [str(folder_of(path) / name) for name in imported.conda_files]
    lines: list[str] = []
    for file in files:
        if given is None and not Path(file).is_file():
            lines.append(f"Packages of {file}: there is no such file; --conda names another.")
            continue
        lines += [f"Packages of {file}:", *_packages(file)]
    return lines


def note_lines(notes: Sequence[Note]) -> Iterator[str]:
    """The notes, below a heading for each kind."""
    for kind, group in groupby(notes, key=lambda note: note.kind):
        yield f"{_HEADINGS[kind]}:"
        yield from (f"  {note}" for note in group)


def _packages(file: str) -> Iterator[str]:
    try:
        found = packages(next(iter(_values(file)), None), trainer_packages())
    except ValueError as error:
        raise invalid(f"{file}: {error}") from error
    yield from (f"  {package.line}: {package.fate}; {package.why}" for package in found)


def _read(path: str) -> Any:
    if Path(path).suffix in (".yaml", ".yml"):
        return next(iter(_values(path)), None)
    try:
        return json.loads(read_text(path), object_pairs_hook=_object)
    except ValueError as error:
        raise invalid(f"{path} is no JSON that can be imported: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys each stand once, for of others the first value would be lost."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice in one object; keep one")
        result[key] = value
    return result


def _values(path: str) -> list[Any]:
    try:
        found = list(documents(read_text(path)))
    except yaml.YAMLError as error:
        raise invalid(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    for key, line in (repeated for document in found for repeated in document.repeated):
        raise invalid(f"{path}:{line}: the key {key} stands twice; keep one")
    return [document.value for document in found]


def _has_name(config: Any) -> bool:
    name = config.get("workflow_id") if isinstance(config, dict) else None
    return isinstance(name, str) and name != "default_workflow"


def _stem(path: str) -> str | None:
    return None if path == STDIN else Path(path).stem
