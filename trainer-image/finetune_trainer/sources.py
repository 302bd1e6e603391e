"""Where data and models are read from, and how they are told apart when they change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.data import DataConfig
from finetune_api.keys import digest
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.objects import MissingObjectError, hash_file
from finetune_trainer.rows import files_path
from finetune_trainer.s3 import S3Client, S3Objects
from finetune_trainer.s3_errors import Place
from finetune_trainer.volumes import NotInVolumeError, is_volume, locate, nearby

# Files up to this size are told apart by their content, larger ones by version id, ETag or time of change.
CONTENT_LIMIT = 1 << 30


@dataclass(frozen=True)
class Sources:
    """What a stage may read from: the storage's server, mounted volumes, the hub; `scratch` takes downloads."""

    connection: S3Client
    scratch: Path
    volumes: Path | None = None
    hub_token: Path | None = None


@dataclass(frozen=True)
class SourceFile:
    """A file as it was found. `tag` tells its content from any other: sha256, or what the source offers instead."""

    name: str
    size: int
    tag: str


@dataclass(frozen=True)
class DataFile:
    """A data file, here."""

    found: SourceFile
    path: Path


def fetch_data(config: DataConfig, sources: Sources) -> list[DataFile]:
    """The files of a data config, in order; those in a store are downloaded.

    Raises StageFailure (DataNotFound) naming the file and what is beside it.
    """
    field = files_path(config.name)
    folder = sources.scratch / "data" / config.name
    return [
        _mounted(uri, sources, f"{field}[{index}]")
        if is_volume(uri)
        else _downloaded(uri, sources, f"{field}[{index}]", folder / str(index))
        for index, uri in enumerate(config.load_dataset_config.data_files)
    ]


def files_digest(files: Sequence[SourceFile], *, ordered: bool) -> str:
    """One digest over files: by content and, where order has no meaning, by name."""
    if ordered:
        return digest([[file.size, file.tag] for file in files])
    return digest(sorted([file.name, file.size, file.tag] for file in files))


def changed_tag(path: Path) -> str:
    """A tag for a local file too large to be hashed: it changes when the file is written."""
    return f"mtime:{path.stat().st_mtime_ns}"


def _mounted(uri: str, sources: Sources, field: str) -> DataFile:
    try:
        path = locate(uri, sources.volumes, field)
    except NotInVolumeError as error:
        raise bad_input(Reason.DATA_NOT_FOUND, error.problem) from error
    if not path.is_file():
        raise bad_input(Reason.DATA_NOT_FOUND, problem(field, uri, "not a file", "Name a file of rows."))
    size = path.stat().st_size
    tag = f"sha256:{hash_file(path).sha256}" if size <= CONTENT_LIMIT else changed_tag(path)
    return DataFile(SourceFile(uri, size, tag), path)


def _downloaded(uri: str, sources: Sources, field: str, folder: Path) -> DataFile:
    place, key = _place(uri, field)
    objects = sources.connection.objects(place)
    info = objects.info(key)
    if info is None:
        raise _missing(objects, uri, key, field)
    path = folder / key
    try:
        came = objects.download({key: path})[key]
    except MissingObjectError as error:
        raise _missing(objects, uri, key, field) from error
    tag = f"sha256:{came.sha256}" if came.size <= CONTENT_LIMIT else f"tag:{info.tag}"
    return DataFile(SourceFile(uri, came.size, tag), path)


def _place(uri: str, field: str) -> tuple[Place, str]:
    """The folder that `uri` lies in, and its name there."""
    folder, _, key = uri.rpartition("/")
    return Place(field, folder, Reason.DATA_NOT_FOUND), key


def _missing(objects: S3Objects, uri: str, key: str, field: str) -> StageFailure:
    names = [item.key for item in objects.list("") if "/" not in item.key]
    return bad_input(Reason.DATA_NOT_FOUND, problem(field, uri, "there is no such object", nearby(key, names)))
