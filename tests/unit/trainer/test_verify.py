"""`verify`: good artifacts pass, one flipped byte does not."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from finetune_api.keys import canonical
from finetune_api.layout import model_manifest_path, provenance_path
from finetune_api.stage import Artifact, JobRef, Manifest, ModelManifest, ModelPin, Pins, StageInput
from finetune_trainer.errors import StageFailure
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.store import ArtifactStore, Committed
from finetune_trainer.verify import main, verify

JOB = JobRef(namespace="ns", name="job", uid="u", generation=1)
KEYS = {"adapter": "a" * 64, "onnx": "b" * 64}


def publish(root: Path) -> dict[str, Committed]:
    """A store with two stages and the model that names them."""
    store = ArtifactStore(FolderObjects(root), "file://store")
    committed: dict[str, Committed] = {}
    for name, key in KEYS.items():
        output = root.parent / f"output-{name}"
        (output / "deep").mkdir(parents=True)
        (output / "weights.bin").write_bytes(name.encode() * 5000)
        (output / "deep/config.json").write_text("{}")
        files = store.upload(key, "attempt-1", output)
        manifest = Manifest(
            stage=name, type="LoRA", key=key, attempt="attempt-1", job=JOB, files=files, started_at="", finished_at=""
        )
        committed[name] = store.commit(manifest)
    artifacts = [
        Artifact(name=name, stage=name, key=KEYS[name], digest=found.digest) for name, found in committed.items()
    ]
    model = ModelManifest(job=JOB, artifacts=artifacts, pins=Pins(model=ModelPin(digest="c" * 64)))
    store.write_document(model_manifest_path("ns", "job", 1), canonical(model.wire()))
    return committed


@pytest.fixture
def root(tmp_path) -> Path:
    publish(tmp_path / "store")
    return tmp_path / "store"


STAGE = f"stages/{KEYS['adapter']}"
MODEL = "models/ns/job/1"


@pytest.mark.parametrize("where", [STAGE, f"{STAGE}/", f"{STAGE}/manifest.json", MODEL, f"{MODEL}/manifest.json"])
def test_what_is_whole_passes(root, where, capsys):
    assert main([f"{root}/{where}"]) == 0
    out = capsys.readouterr().out
    assert "ok  adapter: 2 files, 35002 bytes" in out
    assert ("ok  onnx" in out) == where.startswith("models")


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: flip(folder / "weights.bin"), "weights.bin has other content"),
        (lambda folder: (folder / "deep/config.json").unlink(), "deep/config.json is missing"),
        (lambda folder: (folder / "more.txt").write_text(""), "more.txt is extra"),
        (lambda folder: (folder / "weights.bin").write_bytes(b"1"), "weights.bin has 1 bytes instead of 35000"),
    ],
)
@pytest.mark.parametrize("where", [STAGE, MODEL])
def test_what_is_not_whole_does_not_pass(root, capsys, where, harm, says):
    harm(root / STAGE / "attempt-1")
    assert main([f"{root}/{where}"]) == 1
    assert f"BAD adapter: {says}" in capsys.readouterr().out


def test_files_of_other_attempts_do_no_harm(root):
    (root / STAGE / "attempt-2").mkdir()
    (root / STAGE / "attempt-2/half.bin").write_bytes(b"1")
    assert main([f"{root}/{STAGE}"]) == 0


def test_a_manifest_that_was_changed_is_found_by_the_models(root, capsys):
    path = root / STAGE / "manifest.json"
    path.write_bytes(path.read_bytes() + b" ")
    assert main([f"{root}/{STAGE}"]) == 0
    assert main([f"{root}/{MODEL}"]) == 1
    assert "not the one that was published" in capsys.readouterr().out


def test_a_manifest_that_is_gone(root, capsys):
    (root / STAGE / "manifest.json").unlink()
    assert main([f"{root}/{MODEL}"]) == 1
    assert "manifest.json is missing" in capsys.readouterr().out
    assert main([f"{root}/{STAGE}"]) == 1


def test_a_flipped_byte_of_a_manifest_is_no_manifest(root, capsys):
    path = root / STAGE / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"version"', b'"versiom"'))
    assert main([f"{root}/{STAGE}"]) == 1
    assert "BAD" in capsys.readouterr().out


@pytest.fixture
def downloaded(root, tmp_path) -> Path:
    """Artifacts as the command line downloads them: each in a folder, its manifest beside its files."""
    for name, key in KEYS.items():
        shutil.copytree(root / f"stages/{key}/attempt-1", tmp_path / "artifacts" / name)
        shutil.copy(root / f"stages/{key}/manifest.json", tmp_path / "artifacts" / name)
    return tmp_path / "artifacts"


def test_downloaded_artifacts(downloaded, capsys):
    assert main([str(downloaded)]) == 0
    assert capsys.readouterr().out.count("ok  ") == 2
    assert main([str(downloaded / "onnx")]) == 0
    flip(downloaded / "onnx/weights.bin")
    assert main([str(downloaded)]) == 1
    assert main([str(downloaded / "onnx")]) == 1
    assert main([str(downloaded / "adapter")]) == 0


def test_nothing_there(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "there is no manifest.json" in capsys.readouterr().out


def test_in_a_bucket(root, s3, tmp_path, capsys):
    prefix = f"s3://verify/{tmp_path.name}"
    s3.put_folder(prefix, root)
    options = ["--endpoint", s3.endpoint, "--credentials", str(s3.credentials(tmp_path / "secret"))]
    assert main([f"{prefix}/{MODEL}/manifest.json", *options]) == 0
    assert capsys.readouterr().out.count("ok  ") == 2
    uri = f"{prefix}/{STAGE}/attempt-1/weights.bin"
    s3.put(uri, s3.get(uri)[:-1] + b"R")
    assert main([f"{prefix}/{MODEL}", *options]) == 1
    assert "weights.bin has other content" in capsys.readouterr().out
    assert main(["s3://no-such-bucket/stages/x", *options]) == 2
    assert "no bucket" in capsys.readouterr().err


def test_one_flipped_byte_anywhere_is_found_by_verify_and_by_the_next_stage(root, tmp_path):
    objects = FolderObjects(root)
    store = ArtifactStore(objects, "file://store")
    digest = store.read_manifest(KEYS["adapter"]).digest
    stage = root / STAGE
    places = [stage / "manifest.json", stage / "attempt-1/deep/config.json", stage / "attempt-1/weights.bin"]
    looked = 0
    for path in places:
        body = path.read_bytes()
        step = 1 if len(body) < 2000 else 997
        for at in range(0, len(body), step):
            path.write_bytes(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
            assert any(verdict.faults for verdict in verify(objects, MODEL)), f"{path.name}, byte {at}"
            assert not is_used(store, digest, tmp_path / "next"), f"{path.name}, byte {at}"
            looked += 1
        path.write_bytes(body)
    assert looked > 500
    assert is_used(store, digest, tmp_path / "next")
    assert not any(verdict.faults for verdict in verify(objects, MODEL))


def is_used(store: ArtifactStore, digest: str, folder: Path) -> bool:
    """Whether the next stage would work with what it finds: as `finetune_trainer.fetch.fetch_input` asks."""
    try:
        found = store.read_manifest(KEYS["adapter"], digest)
        if found is None or found.digest != digest:
            return False
        store.download(found.manifest, folder)
    except StageFailure:
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def test_what_artifacts_were_made_from_is_verified_too(root, capsys):
    """A model whose adapter, which is no artifact of its own, was damaged."""
    store = ArtifactStore(FolderObjects(root), "file://store")
    adapter = store.read_manifest(KEYS["adapter"])
    upstream = {"adapter": StageInput(stage="lora", key=KEYS["adapter"], digest=adapter.digest)}
    merged = store.commit(adapter.manifest.model_copy(update={"key": "d" * 64, "inputs": upstream, "files": []}))
    artifact = Artifact(name="model", stage="merge", key="d" * 64, digest=merged.digest)
    model = ModelManifest(job=JOB, artifacts=[artifact], pins=Pins(model=ModelPin(digest="c" * 64)))
    store.write_document(model_manifest_path("ns", "job", 2), canonical(model.wire()))
    assert main([f"{root}/models/ns/job/2"]) == 0
    assert "ok  lora: 2 files" in capsys.readouterr().out
    flip(root / STAGE / "attempt-1/weights.bin")
    assert main([f"{root}/models/ns/job/2"]) == 1
    assert "BAD lora: weights.bin has other content" in capsys.readouterr().out


def test_a_provenance_that_was_changed(root, capsys):
    store = ArtifactStore(FolderObjects(root), "file://store")
    body = b'{"_type": "statement"}'
    model = ModelManifest(
        job=JOB, artifacts=[], pins=Pins(model=ModelPin(digest="c" * 64)), provenance=sha256(body).hexdigest()
    )
    store.write_document(model_manifest_path("ns", "job", 3), canonical(model.wire()))
    store.write_document(provenance_path("ns", "job", 3), body)
    assert main([f"{root}/models/ns/job/3"]) == 0
    flip(root / provenance_path("ns", "job", 3))
    assert main([f"{root}/models/ns/job/3"]) == 1
    assert "BAD provenance" in capsys.readouterr().out
