"""`pull`: what is served is what was published."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.pull import main
from finetune_trainer.store import ArtifactStore
from finetune_trainer.verify import main as verify

from .test_store import manifest
from .test_verify import KEYS, publish


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def published(store: Path, key: str, files: dict[str, bytes]) -> str:
    """Publishes `files` as the output of the stage `key`; the digest of its manifest."""
    source = store.parent / f"output-{key[0]}"
    for name, body in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(body)
    artifacts = ArtifactStore(FolderObjects(store), "file://store")
    return artifacts.commit(manifest(artifacts.upload(key, "one", source), key=key)).digest


def pull(store: Path, folder: Path, digest: str, key: str = KEYS["onnx"]) -> int:
    return main([f"{store}/stages/{key}/manifest.json", str(folder), "--digest", digest])


def test_the_files_come_without_the_attempts_folder(store, tmp_path, capsys):
    digest = publish(store)["onnx"].digest
    folder = tmp_path / "models/onnx"
    assert pull(store, folder, digest) == 0
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "deep/config.json",
        "manifest.json",
        "weights.bin",
    ]
    assert (folder / "weights.bin").read_bytes() == b"onnx" * 5000
    assert "20002 bytes" in capsys.readouterr().out
    assert sha256((folder / "manifest.json").read_bytes()).hexdigest() == digest
    assert verify([str(folder)]) == 0


def test_another_digest_is_refused(store, tmp_path, capsys):
    publish(store)
    assert pull(store, tmp_path / "folder", "0" * 64) == 1
    assert "status.artifacts[].digest" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


def test_of_an_earlier_pull_nothing_is_left(store, tmp_path):
    """An onnxruntime folder with another model's files loads what it should not."""
    old = published(store, "c" * 64, {"adapters/one/a.bin": b"1", "adapters/two.bin": b"2", "shared.bin": b"old"})
    new = published(store, "d" * 64, {"adapters/two.bin": b"22", "shared.bin": b"new"})
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "theirs.txt").write_text("not of a pull")
    assert pull(store, folder, old, "c" * 64) == 0
    assert pull(store, folder, new, "d" * 64) == 0
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert there == {"adapters", "adapters/two.bin", "shared.bin", "manifest.json", "theirs.txt"}
    assert (folder / "shared.bin").read_bytes() == b"new"
    (folder / "theirs.txt").unlink()
    assert verify([str(folder)]) == 0


def test_an_interrupted_pull_is_known_to_the_next_one(store, tmp_path):
    old = published(store, "c" * 64, {"a.bin": b"1", "b.bin": b"2"})
    new = published(store, "d" * 64, {"c.bin": b"3"})
    (store / f"stages/{'c' * 64}/one/b.bin").unlink()
    assert pull(store, tmp_path / "folder", old, "c" * 64) == 1
    (tmp_path / "folder/a.bin").write_bytes(b"1")
    assert pull(store, tmp_path / "folder", new, "d" * 64) == 0
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["c.bin", "manifest.json"]


def test_a_manifest_in_the_folder_deletes_nothing_outside_of_it(store, tmp_path):
    digest = publish(store)["onnx"].digest
    folder = tmp_path / "folder"
    assert pull(store, folder, digest) == 0
    (tmp_path / "precious").write_text("")
    evil = (folder / "manifest.json").read_text().replace("weights.bin", "../precious")
    (folder / "manifest.json").write_text(evil)
    assert pull(store, folder, digest) == 0
    assert (tmp_path / "precious").exists()


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(store, tmp_path, capsys):
    digest = publish(store)["onnx"].digest
    (tmp_path / "file").write_text("")
    assert pull(store, tmp_path / "file/folder", digest) == 1
    said = capsys.readouterr().err
    path = tmp_path / "file/folder/manifest.json"
    assert said == f"{path}: Not a directory. Give a folder that this user may write, with room.\n"


def test_a_changed_file_is_refused(tmp_path, capsys):
    # However long the store's URI is, the file is named.
    store = tmp_path / ("long" * 50)
    digest = publish(store)["onnx"].digest
    weights = store / f"stages/{KEYS['onnx']}/attempt-1/weights.bin"
    weights.write_bytes(b"other" + weights.read_bytes()[5:])
    assert pull(store, tmp_path / "folder", digest) == 1
    assert "weights.bin" in capsys.readouterr().err


def test_what_is_not_there_is_said(store, tmp_path, capsys):
    publish(store)
    assert pull(store, tmp_path / "folder", "0" * 64, key="e" * 64) == 1
    assert "there is no such manifest" in capsys.readouterr().err


def test_a_models_manifest_is_no_artifacts(store, tmp_path):
    publish(store)
    with pytest.raises(SystemExit, match="2"):
        main([f"{store}/models/ns/job/1/manifest.json", str(tmp_path / "folder"), "--digest", "0" * 64])
