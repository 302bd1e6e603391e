"""Checkpoints in the store: what a training has come to, for the stage's next attempt to go on from.

A checkpoint is a folder of files and, put last, the manifest that names them. Attempts of one stage share a place,
by the stage's content key, and never a folder: two writers at once do no harm.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from finetune_api import layout
from finetune_api.base import Digest, Model
from finetune_api.keys import canonical
from finetune_api.stage import AttemptId, ManifestFile, Reason, StageDocument
from finetune_trainer.errors import StageFailure
from finetune_trainer.objects import MissingObjectError, Objects, Transferred
from finetune_trainer.report import Reporter
from finetune_trainer.result import one_line
from finetune_trainer.s3 import S3Client
from finetune_trainer.s3_errors import Place
from finetune_trainer.store import STORAGE_PATH

_MANIFEST = "manifest.json"
# A flat folder: nothing that a manifest names may leave it.
_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][-._A-Za-z0-9]{0,127}$")]


class CheckpointFile(ManifestFile):
    """One file of a checkpoint, beside its manifest."""

    path: _FileName


class CheckpointManifest(Model):
    """The commit of a checkpoint."""

    version: Literal[1] = 1
    key: Digest
    attempt: AttemptId
    step: Annotated[int, Field(ge=0, le=2**53)]
    files: Annotated[list[CheckpointFile], Field(min_length=1, max_length=4096)]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was fetched: its step, the attempt that made it, and its files, checked by sha256."""

    step: int
    attempt: str
    folder: Path


class Checkpoints:
    """The checkpoints of one stage, whichever attempt made them; `attempt` is the one that saves.

    Saving and pruning raise StageFailure where the store fails.
    """

    def __init__(self, objects: Objects, key: str, attempt: str, scratch: Path, report: Reporter) -> None:
        self._objects = objects
        self._key = key
        self._attempt = attempt
        self._scratch = scratch
        self._report = report

    @classmethod
    def on(cls, connection: S3Client, document: StageDocument, scratch: Path, report: Reporter) -> Checkpoints:
        """Those of the document's stage, at the connection's `storage.uri`; `scratch` holds what is fetched."""
        place = Place(STORAGE_PATH, connection.storage.uri, Reason.BUCKET_NOT_FOUND)
        return cls(connection.objects(place), document.key, document.attempt, scratch, report)

    def save(self, step: int, folder: Path, keep: int) -> int:
        """Puts all files of `folder` as the checkpoint of `step`, and deletes older ones until `keep` are left.

        Those of later steps go too: whoever saves went on from an earlier one, so they were not fit for it.

        Returns the checkpoint's size in bytes.
        """
        place = layout.checkpoint_path(self._key, step, self._attempt)
        files = {f"{place}/{path.name}": path for path in sorted(folder.iterdir())}
        sent = self._objects.upload(files)
        listed = [
            CheckpointFile(path=path.name, size=sent[key].size, sha256=sent[key].sha256) for key, path in files.items()
        ]
        manifest = CheckpointManifest(key=self._key, attempt=self._attempt, step=step, files=listed)
        body = canonical(manifest.wire())
        self._objects.write(f"{place}/{_MANIFEST}", body)
        self._prune(place, keep)
        return len(body) + sum(file.size for file in listed)

    def newest_first(self) -> Iterator[Checkpoint]:
        """Every checkpoint that is whole, each fetched when it is asked for; damaged ones are logged and left out."""
        for place in self._places():
            found = self._fetch(place)
            if isinstance(found, Checkpoint):
                yield found
            else:
                self._report.log(f"the checkpoint {place} is left out: {found}")

    def clear(self) -> None:
        """Deletes all checkpoints of the stage. A store that refuses is logged: what is published stays so."""
        try:
            self._delete(self._places())
        except StageFailure as error:
            self._report.log(f"checkpoints of {self._key[:12]} were left behind: {one_line(error.message, 300)}")

    def _places(self) -> list[str]:
        """The folders of checkpoints, committed or not, the newest first."""
        root = layout.checkpoints_path(self._key)
        return [f"{root}{name}" for name in reversed(self._objects.folders(root))]

    def _prune(self, newest: str, keep: int) -> None:
        places = self._places()
        older = [place for place in places if place < newest]
        self._delete([place for place in places if place != newest and place not in older[: keep - 1]])

    def _delete(self, places: list[str]) -> None:
        """The manifest goes first: a checkpoint is whole, or it is none."""
        keys = [item.key for place in places for item in self._objects.list(f"{place}/")]
        self._objects.delete(sorted(keys, key=lambda key: not key.endswith(f"/{_MANIFEST}")))

    def _fetch(self, place: str) -> Checkpoint | str:
        """The checkpoint in `place`, or what is wrong with it."""
        body = self._objects.read(f"{place}/{_MANIFEST}")
        if body is None:
            return "it has no manifest, so it was not finished"
        try:
            manifest = CheckpointManifest.model_validate_json(body)
        except ValidationError as error:
            return f"its manifest is none: {error.errors()[0]['msg']}"
        if place != layout.checkpoint_path(self._key, manifest.step, manifest.attempt) or manifest.key != self._key:
            return "its manifest belongs to another place"
        folder = self._scratch / sha256(place.encode()).hexdigest()[:16]
        shutil.rmtree(folder, ignore_errors=True)
        wanted = {f"{place}/{file.path}": file for file in manifest.files}
        try:
            came = self._objects.download({key: folder / file.path for key, file in wanted.items()})
        except MissingObjectError as error:
            return f"{error.key} is not there"
        wrong = [key for key, file in wanted.items() if came[key] != Transferred(file.size, file.sha256)]
        if wrong:
            return f"{wrong[0]} has another sha256 than its manifest says"
        return Checkpoint(manifest.step, manifest.attempt, folder)
