"""`pull`: what is served is what was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.pull import main

from .test_verify import KEYS, publish


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def pull(store: Path, folder: Path, digest: str, key: str = KEYS["onnx"]) -> int:
    return main([f"{store}/stages/{key}/manifest.json", str(folder), "--digest", digest])


def test_the_files_come_without_the_attempts_folder(store, tmp_path, capsys):
    digest = publish(store)["onnx"].digest
    folder = tmp_path / "models/onnx"
    assert pull(store, folder, digest) == 0
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "deep/config.json",
        "weights.bin",
    ]
    assert (folder / "weights.bin").read_bytes() == b"onnx" * 5000
    assert "20002 bytes" in capsys.readouterr().out


def test_another_digest_is_refused(store, tmp_path, capsys):
    publish(store)
    assert pull(store, tmp_path / "folder", "0" * 64) == 1
    assert "status.artifacts[].digest" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


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
