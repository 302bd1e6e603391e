"""Artifacts in a folder, every file checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from finetune_api.stage import JobRef, Manifest, ManifestFile
from finetune_api.status import ArtifactStatus
from finetune_cli.errors import CliError, ExitCode
from finetune_cli.results import fetch

KEY = "a" * 64
ROOT = "s3://bucket/jobs"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Objects:
    """What of a bucket `fetch` uses, in memory."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def read(self, uri: str) -> bytes:
        return self.held[uri]

    def download(self, uri: str, target: Path) -> None:
        target.write_bytes(self.held[uri])

    def publish(self, files: dict[str, bytes]) -> ArtifactStatus:
        manifest = Manifest(
            stage="lora",
            type="LoRA",
            key=KEY,
            attempt="try-1",
            job=JobRef(namespace="default", name="tones", uid="u", generation=1),
            files=[ManifestFile(path=path, size=len(data), sha256=sha256(data)) for path, data in files.items()],
            started_at="",
            finished_at="",
        )
        text = manifest.model_dump_json().encode()
        folder, place = f"{ROOT}/stages/{KEY}/try-1", f"{ROOT}/stages/{KEY}/manifest.json"
        self.held |= {f"{folder}/{path}": data for path, data in files.items()} | {place: text}
        return ArtifactStatus(name="adapter", stage="lora", uri=folder, manifest=place, digest=sha256(text))


@pytest.fixture
def objects() -> Objects:
    return Objects()


FILES = {"adapter_config.json": b"{}", "sub/weights.bin": b"\x00" * 3_000_000}


def test_files_arrive_with_their_manifest(objects: Objects, tmp_path: Path) -> None:
    fetched = fetch(objects, objects.publish(FILES), tmp_path)
    assert fetched.folder == tmp_path / "adapter"
    assert (fetched.files, fetched.bytes) == (2, 3_000_002)
    assert {path: (fetched.folder / path).read_bytes() for path in FILES} == FILES
    assert (fetched.folder / "manifest.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_later_run_replaces_the_folder(objects: Objects, tmp_path: Path) -> None:
    fetch(objects, objects.publish(FILES), tmp_path)
    fetch(objects, objects.publish({"only.txt": b"new"}), tmp_path)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == ["manifest.json", "only.txt"]


def test_somebody_elses_folder_is_left_alone(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/notes.txt").write_text("mine")
    with pytest.raises(CliError, match="--dir") as caught:
        fetch(objects, objects.publish(FILES), tmp_path)
    assert caught.value.code == ExitCode.INVALID
    assert (tmp_path / "adapter/notes.txt").read_text() == "mine"


def test_one_flipped_byte_is_refused(objects: Objects, tmp_path: Path) -> None:
    artifact = objects.publish(FILES)
    objects.held[f"{artifact.uri}/sub/weights.bin"] = b"\x00" * 2_999_999 + b"\x01"
    with pytest.raises(CliError, match=r"sub/weights\.bin .*sha256"):
        fetch(objects, artifact, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_another_manifest_than_the_status_names_is_refused(objects: Objects, tmp_path: Path) -> None:
    artifact = objects.publish(FILES)
    objects.publish({"other.txt": b"x"})
    with pytest.raises(CliError, match="is not the manifest"):
        fetch(objects, artifact, tmp_path)


@pytest.mark.parametrize("path", ["../escape.txt", "/tmp/escape.txt", "a/../../escape.txt"])
def test_no_file_leaves_its_folder(objects: Objects, tmp_path: Path, path: str) -> None:
    with pytest.raises(CliError, match="outside its folder"):
        fetch(objects, objects.publish({path: b"x"}), tmp_path)
