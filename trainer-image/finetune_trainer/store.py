"""The artifact store: each stage's output is its files and, put last, the manifest that commits them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from finetune_api import layout
from finetune_api.keys import canonical
from finetune_api.problems import problem
from finetune_api.stage import Manifest, ManifestFile, Reason, StageResult
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.objects import MissingObjectError, Moved, Objects, Transferred, hash_file
from finetune_trainer.s3 import S3Client
from finetune_trainer.s3_errors import Place
from finetune_trainer.watching import Watch, unwatched

STORAGE_PATH = "spec.storage.uri"
_MAX_RESULT_METRICS = 24
# Who writes a manifest at the same time, to a server that does not know If-None-Match, has done so by then.
_SETTLE_SECONDS = 2.0
_READS = 3


@dataclass(frozen=True)
class Committed:
    """A manifest as it lies in the store, the sha256 of its bytes, and the bytes."""

    manifest: Manifest
    digest: str
    body: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all the manifest's files."""
        return sum(file.size for file in self.manifest.files)

    def result(self) -> StageResult:
        """The result of the stage whose output this is, whichever attempt made it."""
        return StageResult(
            key=self.manifest.key,
            ok=True,
            digest=self.digest,
            attempt=self.manifest.attempt,
            bytes=self.size,
            metrics=dict(list(self.manifest.metrics.items())[:_MAX_RESULT_METRICS]),
        )


class ArtifactStore:
    """Stages' outputs below one root. Methods raise StageFailure where the store fails or lies.

    Where `namespace` is given, manifests of jobs of another one are lies: the namespace is in every content key.
    `kind` is the folder of all outputs.
    """

    def __init__(self, objects: Objects, uri: str, namespace: str | None = None, kind: str = layout.STAGES) -> None:
        self._objects = objects
        self._uri = uri
        self._namespace = namespace
        self._kind = kind

    @classmethod
    def on(cls, connection: S3Client, namespace: str | None = None) -> ArtifactStore:
        """The store at the connection's `storage.uri`."""
        uri = connection.storage.uri
        return cls(connection.objects(Place(STORAGE_PATH, uri, Reason.BUCKET_NOT_FOUND)), uri, namespace)

    def tokens(self) -> ArtifactStore:
        """The tokens that are kept, below the same root."""
        return ArtifactStore(self._objects, self._uri, self._namespace, layout.TOKENS)

    def read_document(self, path: str) -> bytes | None:
        """A small document's bytes, or None where it is not there."""
        return self._objects.read(path)

    def write_document(self, path: str, body: bytes) -> None:
        """Puts a small document; one that is there is replaced."""
        self._objects.write(path, body)

    def read_manifest(self, key: str, digest: str | None = None) -> Committed | None:
        """The manifest of the stage with this content key, or None. Raises StageFailure (ArtifactCorrupt).

        What is no manifest, or not the one with `digest` where that is known, is read again first: it may have been
        garbled on its way.
        """
        for left in reversed(range(_READS)):
            try:
                found = self._read_manifest(key)
            except StageFailure as failure:
                if not left or failure.reason is not Reason.ARTIFACT_CORRUPT:
                    raise
            else:
                if not left or found is None or digest in (None, found.digest):
                    return found
        return None

    def _read_manifest(self, key: str) -> Committed | None:
        path = layout.manifest_path(key, self._kind)
        body = self._objects.read(path)
        if body is None:
            return None
        try:
            manifest = Manifest.model_validate_json(body)
        except ValidationError as error:
            raise self._corrupt(path, f"no manifest: {error.errors()[0]['msg']}", key) from error
        if manifest.key != key:
            raise self._corrupt(path, f"the manifest of another stage ({manifest.key})", key)
        if self._namespace not in (None, manifest.job.namespace):
            raise self._corrupt(path, f"put there for a job of another namespace ({manifest.job.namespace})", key)
        return Committed(manifest, sha256(body).hexdigest(), body)

    def damage(self, manifest: Manifest) -> list[str]:
        """The manifest's files that are missing or of another size; empty where all are there."""
        folder = layout.attempt_path(manifest.key, manifest.attempt, self._kind) + "/"
        there = {item.key.removeprefix(folder): item.size for item in self._objects.list(folder)}
        return [file.path for file in manifest.files if there.get(file.path) != file.size]

    def whole(self, key: str) -> Committed | None:
        """The stage's manifest, if it is there with all its files."""
        found = self.read_manifest(key)
        return found if found and not self.damage(found.manifest) else None

    def upload(self, key: str, attempt: str, folder: Path, watch: Watch = unwatched) -> list[ManifestFile]:
        """Sends all files below `folder`, and returns them as the manifest lists them: by path.

        What an earlier pod of the same attempt has sent is not sent again.
        """
        prefix = layout.attempt_path(key, attempt, self._kind)
        files = {
            f"{prefix}/{path.relative_to(folder).as_posix()}": path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        before = {item.key: item for item in self._objects.list(f"{prefix}/")}
        known = {name: self._objects.recognise(before[name], path) for name, path in files.items() if name in before}
        sent = {name: found for name, found in known.items() if found}
        missing = {name: path for name, path in files.items() if name not in sent}
        sent |= self._objects.upload(missing, watch(sum(path.stat().st_size for path in missing.values())))
        return [
            ManifestFile(path=name.removeprefix(f"{prefix}/"), size=sent[name].size, sha256=sent[name].sha256)
            for name in files
        ]

    def commit(self, manifest: Manifest, *, replace: Committed | None = None) -> Committed:
        """Puts the stage's manifest, and returns what the store holds then: ours, or that of an earlier winner.

        `replace` is the damaged manifest, if any, that is in the way.
        """
        path, body = layout.manifest_path(manifest.key, self._kind), canonical(manifest.wire())
        digest = sha256(body).hexdigest()
        now = self.read_manifest(manifest.key)
        if now is None or (replace and now.digest == replace.digest):
            self._objects.write(path, body, only_new=now is None)
            if self._has_company(manifest):
                time.sleep(_SETTLE_SECONDS)
        winner = self.read_manifest(manifest.key, digest)
        if winner is None:
            raise self._corrupt(path, "the manifest is not there after it was put", manifest.key)
        return winner

    def _has_company(self, manifest: Manifest) -> bool:
        """Whether another attempt may write the same manifest just now.

        Servers that ignore If-None-Match let the later of two writers win, so that the earlier one must look after
        both have written. An attempt sends its files before it looks for a manifest, and only then writes its own:
        one of which nothing is there after ours was written will find ours.
        """
        # Folders alone: there are servers that read every object which they list, to tell its ETag.
        return any(name != manifest.attempt for name in self._objects.folders(f"{self._kind}/{manifest.key}/"))

    def download(self, manifest: Manifest, folder: Path, watch: Watch = unwatched) -> None:
        """Fetches the stage's files into `folder`, each checked against its sha256; what differs is fetched twice.

        What lies there already and is right stays. Raises StageFailure (ArtifactCorrupt) naming the file.
        """
        wanted = {self._object_key(manifest, file): file for file in manifest.files}
        missing = {key: file for key, file in wanted.items() if not _is_here(folder / file.path, file)}
        moved = watch(sum(file.size for file in missing.values()))
        bad = self._fetch(missing, folder, moved)
        if bad:
            bad = self._fetch(bad, folder, moved)
        if bad:
            first = next(iter(bad))
            raise self._corrupt(first, "the content has another sha256 than the manifest says", manifest.key)

    def _fetch(self, wanted: dict[str, ManifestFile], folder: Path, moved: Moved | None) -> dict[str, ManifestFile]:
        """Fetches files, and returns those that came out wrong."""
        try:
            came = self._objects.download({key: folder / file.path for key, file in wanted.items()}, moved)
        except MissingObjectError as error:
            stage_key = error.key.split("/")[1]
            raise self._corrupt(error.key, "the manifest names it, but it is not there", stage_key) from error
        return {key: file for key, file in wanted.items() if came[key] != Transferred(file.size, file.sha256)}

    def _object_key(self, manifest: Manifest, file: ManifestFile) -> str:
        if not is_inside(file.path):
            raise self._corrupt(file.path, "a path that leaves its folder", manifest.key)
        return f"{layout.attempt_path(manifest.key, manifest.attempt, self._kind)}/{file.path}"

    def _corrupt(self, path: str, message: str, key: str) -> StageFailure:
        remedy = f"Delete {layout.manifest_path(key, self._kind)} to have the stage computed again."
        # The object in the message, not in the value: values are cut at a length that its URI may exceed.
        found = problem(STORAGE_PATH, self._uri, f"{path}: {message}", remedy)
        return bad_input(Reason.ARTIFACT_CORRUPT, found)


def _is_here(path: Path, file: ManifestFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return hash_file(path) == Transferred(file.size, file.sha256)


def is_inside(path: str) -> bool:
    """Whether a manifest's path stays below its folder, in one spelling."""
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and "\\" not in path and str(parts) == path
