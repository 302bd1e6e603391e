"""Job files: YAML documents, of which some are FinetuneJobs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from finetune_api import API_VERSION, GROUP, KIND
from finetune_cli.errors import invalid
from finetune_cli.yamltext import Document, documents

Body = dict[str, Any]

STDIN = "-"


def read_documents(path: str) -> list[Body]:
    """The objects that the YAML file `path` holds, `-` being standard input. Raises CliError."""
    return [document.value for document in read_located(path)]


def read_located(path: str) -> list[Document]:
    """The same, with the lines that their fields stand on; a List's items are objects of the file. Raises CliError."""
    try:
        found = list(documents(read_text(path)))
    except yaml.YAMLError as error:
        raise invalid(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    return [item for number, document in enumerate(found, start=1) for item in _objects(path, number, document)]


def _objects(path: str, number: int, document: Document) -> list[Document]:
    value = document.value
    if not isinstance(value, dict) or "kind" not in value or "apiVersion" not in value:
        raise invalid(f"{path}: document {number} is no Kubernetes object: it needs apiVersion and kind")
    if value["kind"] != "List":
        return [document]
    return [inner for item in document.items("items") for inner in _objects(path, number, item)]


def read_text(path: str) -> str:
    """What the file `path` holds, `-` being standard input. Raises CliError."""
    try:
        return sys.stdin.read() if path == STDIN else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(f"{path} cannot be read: {error}") from error


def is_finetune_job(document: Body) -> bool:
    """Whether `document` is a FinetuneJob, of whatever version."""
    return document["kind"] == KIND and str(document["apiVersion"]).split("/")[0] == GROUP


def split_job(path: str, documents: list[Body]) -> tuple[Body, list[Body]]:
    """The one FinetuneJob among `documents`, and the others. Raises CliError unless there is exactly one."""
    jobs = [document for document in documents if is_finetune_job(document)]
    if len(jobs) != 1:
        names = ", ".join(name_of(job) for job in jobs) or "none"
        raise invalid(f"{path}: one {KIND} ({API_VERSION}) is wanted, there: {names}")
    return jobs[0], [document for document in documents if document is not jobs[0]]


def name_of(document: Body) -> str:
    """An object's name, for people; `(no name)` where it has none."""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) and name else "(no name)"


def namespace_of(document: Body) -> str:
    """An object's namespace; `default` where it names none."""
    metadata = document.get("metadata")
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    return namespace if isinstance(namespace, str) and namespace else "default"
