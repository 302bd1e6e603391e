"""Two attempts of one stage that publish at once: one artifact, whole, and both know which."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import pytest

from finetune_trainer import store as store_module
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.objects import Objects
from finetune_trainer.s3 import QUICK, connect
from finetune_trainer.store import ArtifactStore, Committed

from .test_store import KEY, manifest

ATTEMPTS = ("one", "two")


class AtOnce:
    """Objects whose writer waits for the other's before it writes: both have seen by then that nothing is there."""

    def __init__(self, objects: Objects, barrier: Barrier, conditional: Lock | None) -> None:
        self._objects, self._barrier, self._conditional = objects, barrier, conditional

    def write(self, key: str, body: bytes, *, only_new: bool = False) -> None:
        self._barrier.wait(20)
        if self._conditional is None:
            self._objects.write(key, body, only_new=only_new)
            return
        # A server that knows If-None-Match, before one that does not.
        with self._conditional:
            if not (only_new and self._objects.info(key)):
                self._objects.write(key, body)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)


@pytest.fixture(params=["folder", "s3", "s3 that knows If-None-Match"])
def stores(request: Any, tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ArtifactStore]:
    monkeypatch.setattr(store_module, "_SETTLE_SECONDS", 0.5)
    barrier, lock = Barrier(2), Lock() if "knows" in request.param else None

    def make() -> ArtifactStore:
        if request.param == "folder":
            return ArtifactStore(AtOnce(FolderObjects(tmp_path / "store"), barrier, None), "file://store")
        storage = s3.storage(f"s3://{s3.bucket('two-attempts')}/{tmp_path.name}")
        store = ArtifactStore.on(connect(storage, s3.credentials(tmp_path / "secret"), QUICK))
        store._objects = AtOnce(store._objects, barrier, lock)  # type: ignore[assignment]
        return store

    return make


def publish(store: ArtifactStore, attempt: str, folder: Path) -> Committed:
    folder.mkdir(parents=True)
    # What does not come out the same twice: on a GPU, weights do not.
    (folder / "adapter.bin").write_bytes(random.Random(attempt).randbytes(100_000))
    return store.commit(manifest(store.upload(KEY, attempt, folder), attempt))


def test_one_artifact_and_both_know_which(stores: Callable[[], ArtifactStore], tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(publish, stores(), name, tmp_path / name) for name in ATTEMPTS]
        said = [item.result(60) for item in running]
    assert said[0] == said[1]
    there = stores().whole(KEY)
    assert there == said[0]
    stores().download(there.manifest, tmp_path / "back")
    winner = there.manifest.attempt
    assert (tmp_path / "back/adapter.bin").read_bytes() == (tmp_path / winner / "adapter.bin").read_bytes()


def test_alone_nobody_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module.time, "sleep", lambda _: pytest.fail("it waited"))
    publish(ArtifactStore(FolderObjects(tmp_path / "store"), "file://store"), "one", tmp_path / "one")


def test_what_is_there_is_not_sent_again(tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = s3.storage(f"s3://{s3.bucket('two-attempts')}/{tmp_path.name}")
    store = ArtifactStore.on(connect(storage, s3.credentials(tmp_path / "secret"), QUICK))
    folder = tmp_path / "out"
    folder.mkdir()
    for name, size in (("small", 1000), ("large", 20 << 20), ("other", 10)):
        (folder / name).write_bytes(random.Random(name).randbytes(size))
    first = store.upload(KEY, "one", folder)
    (folder / "other").write_bytes(b"0123456789")
    sent: list[str] = []
    upload = store._objects.upload
    monkeypatch.setattr(store._objects, "upload", lambda files, moved: sent.extend(files) or upload(files, moved))
    second = store.upload(KEY, "one", folder)
    assert [path.rpartition("/")[2] for path in sent] == ["other"]
    assert [file.path for file in second if file not in first] == ["other"]
    store.download(manifest(second), tmp_path / "back")
    (tmp_path / "back/small").write_bytes(b"x" * 1000)
    fetched: list[str] = []
    download = store._objects.download
    monkeypatch.setattr(
        store._objects, "download", lambda files, moved: fetched.extend(files) or download(files, moved)
    )
    store.download(manifest(second), tmp_path / "back")
    assert [path.rpartition("/")[2] for path in fetched] == ["small"]


def test_s3s_tag_of_parts_is_recognised(tmp_path: Path) -> None:
    import hashlib

    from finetune_trainer.s3_sending import same_content

    body = random.Random(1).randbytes((8 << 20) + 5)
    (tmp_path / "f").write_bytes(body)
    parts = [hashlib.md5(body[: 8 << 20]).digest(), hashlib.md5(body[8 << 20 :]).digest()]
    found = same_content(tmp_path / "f", f"{hashlib.md5(b''.join(parts)).hexdigest()}-2")
    assert found is not None
    assert found.sha256 == hashlib.sha256(body).hexdigest()
    assert same_content(tmp_path / "f", f"{'0' * 32}-2") is None
