"""The job's input model and its adapter, wherever they are: their files, what tells those apart, how they come here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from finetune_api.model import InputModel
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import bad_input
from finetune_trainer.mlflow import Layout, layout_of
from finetune_trainer.model_files import ADAPTER, Kind, model_kind
from finetune_trainer.objects import MissingObjectError, hash_file
from finetune_trainer.s3_errors import Place
from finetune_trainer.sources import SourceFile, Sources, changed_tag
from finetune_trainer.volumes import NotInVolumeError, is_volume, locate

# Weights in a mounted volume are told apart by content up to this size, then by their time of change: hashing
# more would take longer than prepare may.
_CONTENT_LIMIT = 64 << 20


class ModelSource(Protocol):
    """A model's or an adapter's files, and what they are pinned by."""

    @property
    def kind(self) -> Kind:
        """Which of the two it is."""

    @property
    def revision(self) -> str | None:
        """The commit at a hub; None elsewhere."""

    @property
    def found(self) -> str:
        """What kind of folder it is, where that is not plainly Hugging Face's; else empty."""

    def names(self) -> list[str]:
        """Every file that is there, wanted or not, by its name in Hugging Face's layout."""

    def fetch(self, names: Iterable[str]) -> Path:
        """The folder that holds these files, here."""

    def files(self) -> list[SourceFile]:
        """The wanted files with their tags; call it after `fetch`, so that what is tagged is what came."""


def open_model(model: InputModel, sources: Sources, *, revision: str | None = None) -> ModelSource:
    """Where `model` is; `revision` is the pinned commit of a hub model.

    Raises StageFailure: ModelNotFound, ModelGated, HubUnavailable.
    """
    kind = model_kind(code=model.load_kwargs.trust_remote_code)
    return _open(kind, model.model_path, sources, revision or model.revision)


def open_adapter(model: InputModel, sources: Sources, *, revision: str | None = None) -> ModelSource:
    """Where `model`'s adapter is, which it has; otherwise as `open_model`."""
    if model.adapter_path is None:
        raise ValueError(f"the input model {model.model_path} has no adapter")
    return _open(ADAPTER, model.adapter_path, sources, revision or model.adapter_revision)


def _open(kind: Kind, uri: str, sources: Sources, revision: str | None) -> ModelSource:
    if is_volume(uri):
        return VolumeModel(kind, uri, sources)
    if uri.startswith("s3://"):
        return StoreModel(kind, uri, sources)
    from finetune_trainer.hub import HubModel  # noqa: PLC0415  (huggingface_hub takes long to import)

    return HubModel(kind, uri, sources, revision=revision or "main")


def _layout(kind: Kind, names: Sequence[str], read: Callable[[str], bytes], uri: str) -> Layout:
    """Where the files are: a model's as its MLmodel says, if it has one, an adapter's as they lie."""
    return Layout({name: name for name in names}) if kind is ADAPTER else layout_of(names, read, uri)


class VolumeModel:
    """A folder of a mounted volume: used where it is, never copied. MLflow's is arranged by links in `scratch`."""

    revision = None

    def __init__(self, kind: Kind, uri: str, sources: Sources) -> None:
        path = kind.fields[0]
        try:
            self._folder = locate(uri, sources.volumes, path)
        except NotInVolumeError as error:
            raise bad_input(Reason.MODEL_NOT_FOUND, error.problem) from error
        if not self._folder.is_dir():
            found = problem(path, uri, "not a folder", f"Name the folder that holds the {kind.noun}.")
            raise bad_input(Reason.MODEL_NOT_FOUND, found)
        self.kind = kind
        self._uri = uri
        self._arranged = sources.scratch / kind.scratch

    @cached_property
    def _layout(self) -> Layout:
        paths = (path for path in self._folder.rglob("*") if path.is_file())
        names = sorted(path.relative_to(self._folder).as_posix() for path in paths)
        return _layout(self.kind, names, lambda name: (self._folder / name).read_bytes(), self._uri)

    @property
    def found(self) -> str:
        """What kind of folder it is, where that is not plainly Hugging Face's."""
        return self._layout.found

    def names(self) -> list[str]:
        """Every file that is there."""
        return list(self._layout.files)

    def fetch(self, names: Iterable[str]) -> Path:
        """The folder itself, or links to the files of an MLflow folder."""
        if not self.found:
            return self._folder
        for name in names:
            link = self._arranged / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(self._folder / self._layout.files[name])
        return self._arranged

    def files(self) -> list[SourceFile]:
        """Tags are sha256 up to 64 MiB, the time of change above."""
        return [self._file(name) for name in self.names() if self.kind.wants(name)]

    def _file(self, name: str) -> SourceFile:
        path = self._folder / self._layout.files[name]
        size = path.stat().st_size
        tag = f"sha256:{hash_file(path).sha256}" if size <= _CONTENT_LIMIT else changed_tag(path)
        return SourceFile(name, size, tag)


class StoreModel:
    """A folder of the storage's server. Weights are told apart by ETag, all else by content."""

    revision = None

    def __init__(self, kind: Kind, uri: str, sources: Sources) -> None:
        self.kind = kind
        self._uri = uri
        self._objects = sources.connection.objects(Place(kind.fields[0], uri, Reason.MODEL_NOT_FOUND))
        self._folder = sources.scratch / kind.scratch
        self._hashes: dict[str, str] = {}

    @cached_property
    def _layout(self) -> Layout:
        return _layout(self.kind, [item.key for item in self._objects.list("")], self._read, self._uri)

    def _read(self, key: str) -> bytes:
        path = self._folder.with_name(f"{self.kind.scratch}-layout") / key
        self._download({key: path})
        return path.read_bytes()

    @property
    def found(self) -> str:
        """What kind of folder it is, where that is not plainly Hugging Face's."""
        return self._layout.found

    def names(self) -> list[str]:
        """Every object below the folder."""
        return list(self._layout.files)

    def fetch(self, names: Iterable[str]) -> Path:
        """Downloads what is not here yet."""
        missing = [name for name in names if name not in self._hashes]
        hashes = self._download({self._layout.files[name]: self._folder / name for name in missing})
        self._hashes.update({name: hashes[self._layout.files[name]] for name in missing})
        return self._folder

    def _download(self, wanted: dict[str, Path]) -> dict[str, str]:
        """Key → sha256 of what came. Raises StageFailure (InputChanged) where an object is gone by now."""
        try:
            return {key: item.sha256 for key, item in self._objects.download(wanted).items()}
        except MissingObjectError as error:
            message = f"{error.key} was taken away while it was read"
            raise bad_input(Reason.INPUT_CHANGED, problem(self.kind.fields[0], self._uri, message)) from error

    def files(self) -> list[SourceFile]:
        """Downloads the companions for their sha256; weights stay where they are."""
        there = {item.key: item for item in self._objects.list("")}
        found = {name: there[key] for name, key in self._layout.files.items() if key in there and self.kind.wants(name)}
        weights = {name for name in found if self.kind.is_weights(name)}
        self.fetch(name for name in found if name not in weights)
        return [
            SourceFile(name, item.size, f"tag:{item.tag}" if name in weights else f"sha256:{self._hashes[name]}")
            for name, item in found.items()
        ]
