"""A finished job's artifacts → folders on this machine, every file checked against its manifest."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_api import layout
from finetune_api.stage import Manifest, ManifestFile
from finetune_api.status import ArtifactStatus
from finetune_cli.bucket import Bucket
from finetune_cli.errors import invalid, job_failed

MANIFEST = "manifest.json"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """An artifact on this machine."""

    name: str
    folder: Path
    files: int
    bytes: int


def fetch(bucket: Bucket, artifact: ArtifactStatus, output: Path) -> Fetched:
    """Download `artifact` into `output/<name>`, with its manifest beside the files.

    A folder that an earlier run fetched is replaced, once the new one is complete. Raises CliError where a file is
    not what its manifest says, or where `output/<name>` is somebody else's folder.
    """
    target = output / artifact.name
    if target.exists() and not (target / MANIFEST).is_file():
        raise invalid(f"{target} is there and is no artifact of an earlier run; move it, or give another --dir")
    partial = output / f".{artifact.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    text = bucket.read(artifact.manifest)
    if hashlib.sha256(text).hexdigest() != artifact.digest:
        raise job_failed(f"{artifact.manifest} is not the manifest that the job's status names ({artifact.digest})")
    manifest = Manifest.model_validate_json(text)
    for file in manifest.files:
        _fetch_file(bucket, layout.join(artifact.uri, file.path), file, partial)
    (partial / MANIFEST).write_bytes(text)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return Fetched(artifact.name, target, len(manifest.files), sum(file.size for file in manifest.files))


def _fetch_file(bucket: Bucket, uri: str, file: ManifestFile, folder: Path) -> None:
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts:
        raise job_failed(f"{uri}: the manifest names a path outside its folder: {file.path}")
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    bucket.download(uri, path)
    if path.stat().st_size != file.size or _sha256(path) != file.sha256:
        raise job_failed(f"{uri} is not the file that its manifest names: size or sha256 differ")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
