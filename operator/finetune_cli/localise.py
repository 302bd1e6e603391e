"""A job file as a user has it on a laptop → the job as the local cluster can run it. Pure but for looking at files.

Local paths become objects of the local bucket, a missing storage becomes the local one. Each replacement is said.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_cli.errors import invalid
from finetune_cli.jobfile import Body, name_of, namespace_of

GPU = "nvidia.com/gpu"
# The endpoint that `finetune local` serves by default. A job that names it means the local cluster's storage.
PLACEHOLDER_ENDPOINT = "http://127.0.0.1:9100"


@dataclass(frozen=True)
class LocalStorage:
    """The local cluster's object storage, as a job's `storage` names it."""

    uri: str
    endpoint: str
    secret: str


@dataclass(frozen=True)
class Upload:
    """A local file or folder, and the URI that it is wanted at."""

    source: Path
    uri: str


@dataclass
class Localised:
    """A job that the local cluster can run, what must be uploaded for it, and what was replaced."""

    job: Body
    uploads: list[Upload] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def localise(job: Body, folder: Path, storage: LocalStorage, *, cpu: bool) -> Localised:
    """`job`, read from a file of `folder`, made runnable; with `cpu` its systems ask for no GPU.

    Raises CliError where a local path does not exist, or cannot be used with the storage that the job names.
    """
    result = Localised(copy.deepcopy(job))
    spec = result.job.get("spec")
    if not isinstance(spec, dict):
        return result
    is_local = _fill_storage(spec, storage, result)
    prefix = f"{storage.uri}/inputs/{namespace_of(job)}/{name_of(job)}"
    for holder, key, field_path, name in _paths(spec):
        source = _local_source(holder[key], folder, field_path)
        if source is None:
            continue
        if not is_local:
            raise invalid(
                f"{field_path} ({holder[key]}): a local path, but spec.storage names other storage, from which the "
                "pods would read it. Leave spec.storage out, or upload it there and write its s3:// URI."
            )
        uri = f"{prefix}/{name}/{source.name}"
        result.uploads.append(Upload(source, uri))
        result.notes.append(f"{field_path}: {holder[key]} → {uri}")
        holder[key] = uri
    _gpus(spec, result, cpu=cpu)
    return result


def _fill_storage(spec: dict[str, Any], storage: LocalStorage, result: Localised) -> bool:
    """Whether the job's storage is the local one, after filling it in where it is left open."""
    named = spec.get("storage")
    if named is None:
        spec["storage"] = {
            "uri": f"{storage.uri}/jobs",
            "endpoint": storage.endpoint,
            "credentialsSecretRef": {"name": storage.secret},
        }
        result.notes.append(f"spec.storage: none → {storage.uri}/jobs at {storage.endpoint}")
        return True
    if not isinstance(named, dict) or named.get("endpoint") != PLACEHOLDER_ENDPOINT:
        return False
    if storage.endpoint != PLACEHOLDER_ENDPOINT:
        named["endpoint"] = storage.endpoint
        result.notes.append(f"spec.storage.endpoint: {PLACEHOLDER_ENDPOINT} → {storage.endpoint}")
    return True


def _paths(spec: dict[str, Any]) -> Iterator[tuple[Any, Any, str, str]]:
    """(holder, key, field's path, name in the bucket) of everything that may be a local path."""
    model = spec.get("inputModel")
    for key, name in (("modelPath", "model"), ("adapterPath", "adapter")):
        if isinstance(model, dict) and isinstance(model.get(key), str):
            yield model, key, f"spec.inputModel.{key}", name
    for config in _objects(spec.get("dataConfigs")):
        load, name = config.get("loadDatasetConfig"), config.get("name", "data")
        # In a hub data set (`org/name`) paths are the repository's.
        if isinstance(load, dict) and "/" not in str(load.get("dataName")):
            path = f"spec.dataConfigs[name={name}].loadDatasetConfig"
            yield from _files(load.get("dataFiles"), f"{path}.dataFiles", str(name))
            for item in _objects(load.get("splitFiles")):
                split = str(item.get("split"))
                yield from _files(item.get("files"), f"{path}.splitFiles[split={split}].files", f"{name}/{split}")


def _files(files: Any, path: str, name: str) -> Iterator[tuple[Any, Any, str, str]]:
    for index, value in enumerate(files if isinstance(files, list) else []):
        if isinstance(value, str):
            yield files, index, f"{path}[{index}]", f"{name}/{index}"


def _local_source(value: str, folder: Path, field_path: str) -> Path | None:
    """The file or folder that `value` means; None where it is a URI or a hub id. Raises CliError if it is missing.

    A model's path is local where it begins with `.`, `/` or `~`, for a bare `a/b` is a hub id.
    """
    is_model = field_path.endswith(("modelPath", "adapterPath"))
    if "://" in value or (is_model and not value.startswith((".", "/", "~"))):
        return None
    source = Path(os.path.normpath(folder / Path(value).expanduser()))
    if is_model and not source.is_dir():
        raise invalid(f"{field_path} ({value}): there is no folder {source}. Paths are relative to the job file.")
    if not is_model and not source.is_file():
        raise invalid(f"{field_path} ({value}): there is no file {source}. Paths are relative to the job file.")
    return source


def _gpus(spec: dict[str, Any], result: Localised, *, cpu: bool) -> None:
    for system in _objects(spec.get("systems")):
        resources = system.get("resources")
        parts = resources.values() if isinstance(resources, dict) else ()
        amounts = [part for part in parts if isinstance(part, dict) and GPU in part]
        if not amounts:
            continue
        name = system.get("name", "?")
        if cpu:
            for part in amounts:
                del part[GPU]
            result.notes.append(f"spec.systems[name={name}]: {GPU} removed (--cpu)")
        else:
            result.notes.append(
                f"spec.systems[name={name}] asks for {GPU}, which the local node does not have: "
                "stages that use it stay Pending (Unschedulable). --cpu removes it."
            )


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it is no list, for which the rules have words of their own."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
