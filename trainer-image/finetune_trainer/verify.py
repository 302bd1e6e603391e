"""`verify`: whether a published artifact is, byte for byte, what its manifest says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from finetune_api import layout
from finetune_api.stage import Manifest, ModelManifest, Reason
from finetune_api.storage import Storage
from finetune_trainer.errors import StageFailure
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.objects import Objects
from finetune_trainer.s3 import connect
from finetune_trainer.s3_errors import Place
from finetune_trainer.store import is_inside

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
_BATCH = 16


@dataclass(frozen=True)
class Verdict:
    """What was found about one artifact; it is good where there is no fault."""

    name: str
    files: int
    size: int
    faults: tuple[str, ...]

    def __str__(self) -> str:
        if self.faults:
            return f"BAD {self.name}: {'; '.join(self.faults)}"
        return f"ok  {self.name}: {self.files} files, {self.size} bytes"


def verify(objects: Objects, folder: str) -> Iterator[Verdict]:
    """A verdict on each artifact in `folder`, a key prefix without slash at its end ("" for the root).

    `folder` holds a stage's manifest (its files beside it or below its attempt), a published model's manifest
    (the stages that it names lie below the root), or folders that do.
    """
    body = objects.read(_join(folder, MANIFEST))
    if body is None:
        yield from _verify_inner(objects, folder)
        return
    try:
        model = ModelManifest.model_validate_json(body)
    except ValidationError:
        yield _verify_stage(objects, folder, body, None)
        return
    yield from _verify_model(objects, folder, model)


def _verify_model(objects: Objects, folder: str, model: ModelManifest) -> Iterator[Verdict]:
    """Verdicts on a published model's artifacts, on every stage that they were made from, and on its provenance."""
    wanted = {artifact.key: (artifact.name, artifact.digest) for artifact in model.artifacts}
    looked: set[str] = set()
    while left := [key for key in wanted if key not in looked]:
        key = left[0]
        looked.add(key)
        name, digest = wanted[key]
        stage = f"stages/{key}"
        found = objects.read(layout.manifest_path(key))
        if found is None:
            yield Verdict(name, 0, 0, (f"{stage}/{MANIFEST} is missing",))
            continue
        yield _verify_stage(objects, stage, found, digest, name=name)
        with suppress(ValidationError):
            for item in Manifest.model_validate_json(found).inputs.values():
                wanted.setdefault(item.key, (item.stage, item.digest))
    if model.provenance is not None:
        body = objects.read(_join(folder, PROVENANCE)) or b""
        wrong = () if sha256(body).hexdigest() == model.provenance else (f"{PROVENANCE} is not the published one",)
        yield Verdict("provenance", 1, len(body), wrong)


def _verify_inner(objects: Objects, folder: str) -> Iterator[Verdict]:
    """Verdicts on the folders of `folder`, such as those that a job's artifacts were downloaded to."""
    start = f"{folder}/" if folder else ""
    keys = [item.key for item in objects.list(start)]
    inner = [key.rpartition("/")[0] for key in keys if key.removeprefix(start).split("/")[1:] == [MANIFEST]]
    if not inner:
        yield Verdict(folder or ".", 0, 0, (f"there is no {MANIFEST}",))
    for item in inner:
        yield from verify(objects, item)


def _verify_stage(objects: Objects, folder: str, body: bytes, digest: str | None, *, name: str = "") -> Verdict:
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError as error:
        return Verdict(name or folder or ".", 0, 0, (f"{MANIFEST}: {error.errors()[0]['msg']}",))
    faults = []
    if digest is not None and sha256(body).hexdigest() != digest:
        faults.append(f"{MANIFEST} is not the one that was published")
    attempt = _join(folder, manifest.attempt)
    files = attempt if objects.list(f"{attempt}/") else folder
    faults += _file_faults(objects, files, manifest)
    size = sum(file.size for file in manifest.files)
    return Verdict(name or manifest.stage, len(manifest.files), size, tuple(faults))


def _file_faults(objects: Objects, folder: str, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the files in `folder`: missing, extra, of another size, of other content."""
    start = f"{folder}/" if folder else ""
    there = {item.key.removeprefix(start): item.size for item in objects.list(start)}
    if not folder.endswith(manifest.attempt):
        there.pop(MANIFEST, None)
    wanted = {file.path: file for file in manifest.files}
    yield from (f"{path} is extra" for path in sorted(there.keys() - wanted.keys()))
    sound = []
    for path, file in wanted.items():
        if not is_inside(path):
            yield f"{path} leaves its folder"
        elif path not in there:
            yield f"{path} is missing"
        elif there[path] != file.size:
            yield f"{path} has {there[path]} bytes instead of {file.size}"
        else:
            sound.append(path)
    for index in range(0, len(sound), _BATCH):
        batch = sound[index : index + _BATCH]
        came = objects.hashes([start + path for path in batch])
        yield from (f"{path} has other content" for path in batch if came[start + path].sha256 != wanted[path].sha256)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def main(words: Sequence[str]) -> int:
    """`check` as a program of its own."""
    parser = argparse.ArgumentParser(prog="python -m finetune_trainer verify", description=__doc__)
    add_arguments(parser)
    return check(parser.parse_args(words))


def check(options: argparse.Namespace) -> int:
    """Prints a line per artifact; returns 0 where all are good, 1 where one is not, 2 where none can be read."""
    try:
        verdicts = list(verify(*opened(options)))
    except StageFailure as failure:
        sys.stderr.write(f"{failure}\n")
        return 2
    for verdict in verdicts:
        sys.stdout.write(f"{verdict}\n")
    return 1 if any(verdict.faults for verdict in verdicts) else 0


def opened(options: argparse.Namespace) -> tuple[Objects, str]:
    """The objects below the root of a store that `options.where` lies in, and its folder there."""
    where = options.where.removeprefix("file://").removesuffix(MANIFEST).rstrip("/")
    if not where.startswith("s3://"):
        path = Path(where).resolve()
        root, folder = _split(path.as_posix())
        return FolderObjects(Path(root)), folder
    root, folder = _split(where)
    storage = Storage(uri=root, endpoint=options.endpoint, region=options.region)
    place = Place("the URI", root, Reason.BUCKET_NOT_FOUND)
    return connect(storage, options.credentials).objects(place), folder


def _split(where: str) -> tuple[str, str]:
    """The store's root, and the folder below it; the whole is the root where it names no part of a store."""
    for mark in ("/stages/", "/tokens/", "/models/"):
        root, found, rest = where.rpartition(mark)
        if found and _fits(mark, rest):
            return root, f"{mark.strip('/')}/{rest}"
    return where, ""


def _fits(mark: str, rest: str) -> bool:
    """Whether `rest` is what `finetune_api.layout` has below `mark`: a key, or namespace, job and generation."""
    return rest.count("/") == (2 if mark == "/models/" else 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `check` reads."""
    parser.add_argument(
        "where", help="folder, file:// or s3:// URI of a stage, of a published model, or of either's manifest"
    )
    add_connection(parser)


def add_connection(parser: argparse.ArgumentParser) -> None:
    """How a store is reached."""
    parser.add_argument("--endpoint", help="URL of the S3 server; default: AWS")
    parser.add_argument("--region", help="region of the bucket")
    parser.add_argument("--credentials", type=Path, help="folder with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
