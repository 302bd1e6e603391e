"""Where data and models are read from, and how they are told apart when they change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.data import TRAIN, DataConfig
from finetune_api.keys import digest
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.globs import has_wildcards, literal_folder, matching
from finetune_trainer.objects import MissingObjectError, hash_file
from finetune_trainer.s3 import S3Client, S3Objects
from finetune_trainer.s3_errors import Place
from finetune_trainer.volumes import NotInVolumeError, expand, is_volume, locate, nearby

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
    """A data file, here, the split that its rows belong to and, of a hub data set, the commit it is from."""

    found: SourceFile
    path: Path
    split: str = TRAIN
    commit: str | None = None


def files_path(name: str) -> str:
    """The path of a data config's files in the spec."""
    return f"spec.dataConfigs[name={name}].loadDatasetConfig.dataFiles"


def fetch_data(config: DataConfig, sources: Sources, *, commit: str | None = None) -> list[DataFile]:
    """The files of the splits that a data config takes, in order; those in a store or on the hub are downloaded.

    `commit` is the pinned one of a hub data set. Raises StageFailure (DataNotFound) naming the file and what is
    beside it.
    """
    load = config.load_dataset_config
    if load.is_hub:
        from finetune_trainer.hub_data import fetch_hub_data  # noqa: PLC0415  (huggingface_hub takes long to import)

        return fetch_hub_data(config, sources, commit=commit)
    taken = load.taken()
    return [
        file
        for split, uris in load.splits().items()
        if split in taken
        for index, uri in enumerate(uris)
        for file in _fetched(uri, split, sources, _field(config, split, index), config.name)
    ]


def _field(config: DataConfig, split: str, index: int) -> str:
    """The path in the spec of file `index` of a split."""
    field = files_path(config.name)
    if config.load_dataset_config.split_files is None:
        return f"{field}[{index}]"
    return f"{field.removesuffix('dataFiles')}splitFiles[split={split}].files[{index}]"


def _fetched(uri: str, split: str, sources: Sources, field: str, name: str) -> list[DataFile]:
    """The file that `uri` names, or, where that has wildcards, those that there are, by name."""
    if is_volume(uri):
        found = [_mounted(each, sources, field) for each in _volume_files(uri, sources, field)]
    else:
        folder = sources.scratch / "data" / name / split / field.rpartition("[")[2].rstrip("]")
        found = [_downloaded(each, sources, field, folder) for each in _objects(uri, sources, field)]
    return [replace(file, split=split) for file in found]


def _objects(uri: str, sources: Sources, field: str) -> list[str]:
    """The URIs of the objects that `uri` means. Raises StageFailure (DataNotFound) where wildcards mean none."""
    if not has_wildcards(uri):
        return [uri]
    root = literal_folder(uri)
    objects = sources.connection.objects(Place(field, root, Reason.DATA_NOT_FOUND)).list("")
    found = matching(uri, (f"{root}/{item.key}" for item in objects))
    if not found:
        there = nearby(uri, [item.key for item in objects])
        raise bad_input(Reason.DATA_NOT_FOUND, problem(field, uri, "no object has such a name", there))
    return found


def files_digest(files: Sequence[SourceFile], *, ordered: bool) -> str:
    """One digest over files: by content and, where order has no meaning, by name."""
    if ordered:
        return digest([[file.size, file.tag] for file in files])
    return digest(sorted([file.name, file.size, file.tag] for file in files))


def changed_tag(path: Path) -> str:
    """A tag for a local file too large to be hashed: it changes when the file is written."""
    return f"mtime:{path.stat().st_mtime_ns}"


def data_digest(files: Sequence[DataFile]) -> str:
    """One digest over a data config's files: by split, order and content."""
    return digest([[file.split, file.found.size, file.found.tag] for file in files])


def _volume_files(uri: str, sources: Sources, field: str) -> list[str]:
    try:
        return expand(uri, sources.volumes, field)
    except NotInVolumeError as error:
        raise bad_input(Reason.DATA_NOT_FOUND, error.problem) from error


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
