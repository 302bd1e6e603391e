"""The job's input model, wherever it is: which files it has, what tells them apart, and how they come here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from finetune_api.model import InputModel
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import bad_input
from finetune_trainer.model_files import is_wanted, is_weights
from finetune_trainer.objects import MissingObjectError, hash_file
from finetune_trainer.s3_errors import Place
from finetune_trainer.sources import SourceFile, Sources, changed_tag
from finetune_trainer.tokenizer import MODEL_PATH
from finetune_trainer.volumes import NotInVolumeError, is_volume, locate

# Weights in a mounted volume are told apart by content up to this size, then by their time of change: hashing
# more would take longer than prepare may.
_CONTENT_LIMIT = 64 << 20


class ModelSource(Protocol):
    """A model's files, and what they are pinned by."""

    @property
    def revision(self) -> str | None:
        """The commit of a hub model; None elsewhere."""

    def names(self) -> list[str]:
        """Every file that is there, wanted or not."""

    def fetch(self, names: Iterable[str]) -> Path:
        """The folder that holds these files, here."""

    def files(self) -> list[SourceFile]:
        """The wanted files with their tags; call it after `fetch`, so that what is tagged is what came."""


def open_model(model: InputModel, sources: Sources, *, revision: str | None = None) -> ModelSource:
    """Where `model` is; `revision` is the pinned commit of a hub model.

    Raises StageFailure: ModelNotFound, ModelGated, HubUnavailable.
    """
    uri, code = model.model_path, model.load_kwargs.trust_remote_code
    if is_volume(uri):
        return VolumeModel(uri, sources.volumes, code=code)
    if uri.startswith("s3://"):
        return StoreModel(uri, sources, code=code)
    from finetune_trainer.hub import HubModel  # noqa: PLC0415  (huggingface_hub takes long to import)

    return HubModel(model, sources, revision=revision)


class VolumeModel:
    """A folder of a mounted volume: used where it is, never copied."""

    revision = None

    def __init__(self, uri: str, root: Path | None, *, code: bool) -> None:
        try:
            self._folder = locate(uri, root, MODEL_PATH)
        except NotInVolumeError as error:
            raise bad_input(Reason.MODEL_NOT_FOUND, error.problem) from error
        if not self._folder.is_dir():
            found = problem(MODEL_PATH, uri, "not a folder", "Name the folder that holds config.json.")
            raise bad_input(Reason.MODEL_NOT_FOUND, found)
        self._code = code

    def names(self) -> list[str]:
        """Every file that is there."""
        paths = (path for path in self._folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self._folder).as_posix() for path in paths)

    def fetch(self, names: Iterable[str]) -> Path:
        """The folder itself."""
        return self._folder

    def files(self) -> list[SourceFile]:
        """Tags are sha256 up to 64 MiB, the time of change above."""
        return [self._file(name) for name in self.names() if is_wanted(name, code=self._code)]

    def _file(self, name: str) -> SourceFile:
        path = self._folder / name
        size = path.stat().st_size
        tag = f"sha256:{hash_file(path).sha256}" if size <= _CONTENT_LIMIT else changed_tag(path)
        return SourceFile(name, size, tag)


class StoreModel:
    """A folder of the storage's server. Weights are told apart by ETag, all else by content."""

    revision = None

    def __init__(self, uri: str, sources: Sources, *, code: bool) -> None:
        self._uri = uri
        self._objects = sources.connection.objects(Place(MODEL_PATH, uri, Reason.MODEL_NOT_FOUND))
        self._folder = sources.scratch / "base"
        self._code = code
        self._hashes: dict[str, str] = {}

    def names(self) -> list[str]:
        """Every object below the folder."""
        return [item.key for item in self._objects.list("")]

    def fetch(self, names: Iterable[str]) -> Path:
        """Downloads what is not here yet."""
        missing = {name: self._folder / name for name in names if name not in self._hashes}
        try:
            came = self._objects.download(missing)
        except MissingObjectError as error:
            message = f"{error.key} was taken away while it was read"
            raise bad_input(Reason.INPUT_CHANGED, problem(MODEL_PATH, self._uri, message)) from error
        self._hashes.update({name: item.sha256 for name, item in came.items()})
        return self._folder

    def files(self) -> list[SourceFile]:
        """Downloads the companions for their sha256; weights stay where they are."""
        found = [item for item in self._objects.list("") if is_wanted(item.key, code=self._code)]
        self.fetch(item.key for item in found if not is_weights(item.key))
        return [
            SourceFile(
                item.key,
                item.size,
                f"tag:{item.tag}" if is_weights(item.key) else f"sha256:{self._hashes[item.key]}",
            )
            for item in found
        ]
