"""A data set of a Hugging Face hub, held at one commit: its files by split, never its code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.hf_api import DatasetInfo
from huggingface_hub.repocard import metadata_load

from finetune_api.data import TRAIN, DataConfig
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.formats import format_of
from finetune_trainer.globs import matching
from finetune_trainer.hub_access import TIMEOUT_SECONDS, Repository, hub_api, hub_failures
from finetune_trainer.objects import hash_file
from finetune_trainer.sources import DataFile, SourceFile, Sources
from finetune_trainer.volumes import nearby

_CARD = "README.md"
# The words by which datasets tells splits from the names of files and folders.
_KEYWORDS = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# `data/<split>-00000-of-00005.parquet`, the form in which the hub itself converts data sets.
_SHARD = re.compile(r"(?:.*/)?([A-Za-z0-9_.]+)-[0-9]{5}-of-[0-9]{5}\.[^/]+")
SplitPatterns = dict[str, list[str]]


def fetch_hub_data(config: DataConfig, sources: Sources, *, commit: str | None = None) -> list[DataFile]:
    """The files of the splits that `config` takes, downloaded at `commit`, else at what its revision names now.

    Which files belong to which split is what the spec says, else the card's `configs`, else the files' names as
    datasets reads them. Raises StageFailure: DataNotFound, AccessDenied where it is gated, HubUnavailable.
    """
    repository, api = _repository(config, commit), hub_api(sources.hub_token)
    with hub_failures(repository):
        info = _info(api, repository)
        names = [sibling.rfilename for sibling in info.siblings or []]
        folder = sources.scratch / "data" / config.name / "hub"
        splits = _splits(config, names, lambda wanted: _download(api, info, [wanted], folder) / wanted)
        wanted = [(split, name) for split in config.load_dataset_config.taken() for name in splits[split]]
        _download(api, info, [name for _, name in wanted], folder)
    return [DataFile(_found(info, name, folder), folder / name, split, info.sha) for split, name in wanted]


def _repository(config: DataConfig, commit: str | None = None) -> Repository:
    path = f"spec.dataConfigs[name={config.name}].loadDatasetConfig"
    load = config.load_dataset_config
    return Repository(
        name=load.data_name,
        kind="data set",
        path=f"{path}.dataName",
        revision=commit or load.revision or "main",
        revision_path=f"{path}.revision",
        not_found=Reason.DATA_NOT_FOUND,
        gated=Reason.ACCESS_DENIED,
    )


def _info(api: HfApi, repository: Repository) -> DatasetInfo:
    return api.dataset_info(repository.name, revision=repository.revision, files_metadata=True, timeout=TIMEOUT_SECONDS)


def _download(api: HfApi, info: DatasetInfo, names: Iterable[str], folder: Path) -> Path:
    """`folder`, with these files in it; huggingface_hub checks their sizes."""
    api.snapshot_download(
        info.id,
        repo_type="dataset",
        revision=info.sha,
        local_dir=folder,
        allow_patterns=[escape(name) for name in names],
    )
    return folder


def _found(info: DatasetInfo, name: str, folder: Path) -> SourceFile:
    """What `name` is known by. Raises StageFailure (DataInvalid) where what came is not what the hub has."""
    [item] = [sibling for sibling in info.siblings or [] if sibling.rfilename == name]
    came = hash_file(folder / name)
    if item.lfs and item.lfs.sha256 != came.sha256:
        found = problem("spec.dataConfigs", name, "its sha256 is not the one that the hub states", "Try again.")
        raise bad_input(Reason.DATA_INVALID, found)
    return SourceFile(f"{info.id}/{name}", came.size, f"sha256:{came.sha256}")


def _splits(config: DataConfig, names: list[str], fetch: Any) -> SplitPatterns:
    """Split → its files among `names`. `fetch` brings one file here. Raises StageFailure (DataNotFound)."""
    load = config.load_dataset_config
    patterns = load.splits()
    if not patterns and _CARD in names:
        patterns = card_splits(metadata_load(fetch(_CARD)) or {}, load.subset, config)
    elif load.subset is not None:
        raise _no_subset(config, [])
    splits = {split: files_of(each, names) for split, each in patterns.items()} or splits_by_name(names)
    for split in load.taken():
        if not splits.get(split):
            raise _no_split(config, split, splits, names)
    return splits


def card_splits(card: Mapping[str, Any], subset: str | None, config: DataConfig) -> SplitPatterns:
    """Split → patterns of files, of the configuration `subset` (else the default) of a data set's card.

    Empty where the card names no files. Raises StageFailure (DataNotFound) where it has no such configuration.
    """
    configs = [item for item in card.get("configs") or [] if isinstance(item, dict)]
    by_name = {str(item.get("config_name", "default")): item for item in configs}
    default = next((item for item in configs if item.get("default")), by_name.get("default"))
    chosen = by_name.get(subset) if subset else default or (configs[0] if len(configs) == 1 else None)
    if chosen is None:
        if subset or configs:
            raise _no_subset(config, list(by_name))
        return {}
    return _patterns(chosen.get("data_files"), str(chosen.get("data_dir") or ""))


def _patterns(files: Any, folder: str) -> SplitPatterns:
    """`data_files` of a card, in each of its forms: a path, paths, or a list of {split, path}."""
    if files is None:
        return {TRAIN: [f"{folder}/**"]} if folder else {}
    found: SplitPatterns = {}
    for item in files if isinstance(files, list) else [files]:
        split, paths = (item.get("split", TRAIN), item.get("path")) if isinstance(item, dict) else (TRAIN, item)
        for path in paths if isinstance(paths, list) else [paths]:
            found.setdefault(str(split), []).append(f"{folder}/{path}" if folder else str(path))
    return found


def files_of(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of `names` that a pattern stands for and whose format is known, in the patterns' order, each once."""
    there = [name for name in names if format_of(name)]
    return list(dict.fromkeys(name for pattern in patterns for name in matching(pattern, there)))


def splits_by_name(names: Iterable[str]) -> SplitPatterns:
    """Split → files, as their names tell; all are train where none tells."""
    there = sorted(name for name in names if format_of(name) and not name.startswith("."))
    for part in (_of_shard, _of_file_name, _of_folder):
        found: SplitPatterns = {}
        for name in there:
            split = part(name)
            if split:
                found.setdefault(split, []).append(name)
        if found:
            return found
    return {TRAIN: there}


def _of_shard(name: str) -> str | None:
    match = _SHARD.fullmatch(name)
    return match[1] if match else None


def _of_file_name(name: str) -> str | None:
    return _keyword(name.rpartition("/")[2])


def _of_folder(name: str) -> str | None:
    return _keyword(name.rpartition("/")[0])


def _keyword(text: str) -> str | None:
    """The split whose word stands in `text`, between signs and digits."""
    words = set(re.split(r"[-._ /0-9]+", text.lower()))
    return next((split for split, known in _KEYWORDS.items() if not words.isdisjoint(known)), None)


def _no_subset(config: DataConfig, there: list[str]) -> StageFailure:
    load = config.load_dataset_config
    path = f"spec.dataConfigs[name={config.name}].loadDatasetConfig.subset"
    message = f"{load.data_name} has {'no such subset' if load.subset else 'several subsets, and no default'}"
    remedy = f"There: {', '.join(there[:8])}." if there else "Remove it, or name the files in dataFiles."
    return bad_input(Reason.DATA_NOT_FOUND, problem(path, load.subset, message, remedy))


def _no_split(config: DataConfig, split: str, splits: SplitPatterns, names: list[str]) -> StageFailure:
    load = config.load_dataset_config
    path = f"spec.dataConfigs[name={config.name}].loadDatasetConfig.split"
    there = [name for name, files in splits.items() if files]
    if there:
        found = problem(path, split, f"{load.data_name} has no such split", f"There: {', '.join(there)}.")
    else:
        message = f"{load.data_name} has no file in a format that is read; a loading script is never run"
        found = problem(path, split, message, nearby("data.parquet", names))
    return bad_input(Reason.DATA_NOT_FOUND, found)
