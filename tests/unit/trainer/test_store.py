"""The artifact store, on a real S3 server and on a folder."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.stage import ExitCode, JobRef, Manifest, ManifestFile, Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.s3 import QUICK, connect
from finetune_trainer.s3_errors import Place
from finetune_trainer.store import ArtifactStore, Committed, is_inside

KEY = "a" * 64


class Meddler:
    """Somebody who changes the objects below the store's root."""

    def __init__(self, put: Callable[[str, bytes], None], delete: Callable[[str], None]) -> None:
        self.put, self.delete = put, delete


def _put_file(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


@pytest.fixture(params=["s3", "folder"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def store(kind, tmp_path, s3) -> ArtifactStore:
    if kind == "folder":
        return ArtifactStore(FolderObjects(tmp_path / "store"), "file://store")
    storage = s3.storage(f"s3://{s3.bucket('store-test')}/{tmp_path.name}")
    return ArtifactStore.on(connect(storage, s3.credentials(tmp_path / "secret"), QUICK))


@pytest.fixture
def meddler(kind, tmp_path, s3) -> Meddler:
    if kind == "folder":
        folder = tmp_path / "store"
        return Meddler(lambda key, body: _put_file(folder / key, body), lambda key: (folder / key).unlink())
    root = f"s3://store-test/{tmp_path.name}"
    return Meddler(lambda key, body: s3.put(f"{root}/{key}", body), lambda key: s3.delete(f"{root}/{key}"))


def manifest(files: list[ManifestFile], attempt: str = "one", key: str = KEY) -> Manifest:
    return Manifest(
        stage="lora",
        type="LoRA",
        key=key,
        attempt=attempt,
        job=JobRef(namespace="ns", name="job", uid="u", generation=1),
        files=files,
        started_at="2026-01-01T00:00:00Z",
        finished_at="2026-01-01T00:00:01Z",
    )


def make_output(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "adapter.bin").write_bytes(b"weights" * 1000)
    (folder / "deep" / "empty.txt").write_bytes(b"")
    (folder / "deep" / "ümlaut name.json").write_text("{}")
    return folder


def publish(store: ArtifactStore, folder: Path, attempt: str = "one") -> Committed:
    return store.commit(manifest(store.upload(KEY, attempt, folder), attempt))


def test_what_is_sent_comes_back(store, tmp_path):
    committed = publish(store, make_output(tmp_path / "out"))
    assert store.read_manifest(KEY) == committed == store.whole(KEY)
    assert committed.size == 7002
    store.download(committed.manifest, tmp_path / "back")
    assert (tmp_path / "back/adapter.bin").read_bytes() == b"weights" * 1000
    assert (tmp_path / "back/deep/ümlaut name.json").read_text() == "{}"
    assert (tmp_path / "back/deep/empty.txt").read_bytes() == b""


def test_names_of_folders(store, meddler):
    for path in ("stages/k/two/deep/file", "stages/k/one/file", "stages/k/manifest.json", "stages/other/one/file"):
        meddler.put(path, b"x")
    assert store._objects.folders("stages/k/") == ["one", "two"]
    assert store._objects.folders("stages/none/") == []


def test_what_was_sent_is_not_listed(store, tmp_path, monkeypatch):
    """A server that reads every object which it lists, as rclone does, took a third of the time for that."""
    listed = []
    listing = store._objects.list
    monkeypatch.setattr(store._objects, "list", lambda prefix: listed.extend(listing(prefix)) or listing(prefix))
    publish(store, make_output(tmp_path / "out"))
    assert listed == []


def test_no_manifest_is_no_artifact(store, tmp_path):
    store.upload(KEY, "one", make_output(tmp_path / "out"))
    assert store.read_manifest(KEY) is None
    assert store.whole(KEY) is None


def test_the_loser_of_a_race_takes_the_winners(store, tmp_path):
    winner = publish(store, make_output(tmp_path / "out"), "one")
    loser = publish(store, tmp_path / "out", "two")
    assert loser == winner
    assert loser.result().attempt == "one"


def test_a_damaged_artifact_is_found_and_may_be_replaced(store, meddler, tmp_path):
    broken = publish(store, make_output(tmp_path / "out"), "one")
    meddler.delete(f"stages/{KEY}/one/adapter.bin")
    assert store.damage(broken.manifest) == ["adapter.bin"]
    assert store.whole(KEY) is None
    mended = store.commit(manifest(store.upload(KEY, "two", tmp_path / "out"), "two"), replace=broken)
    assert mended.manifest.attempt == "two"
    assert store.whole(KEY) == mended


@pytest.mark.parametrize("harm", ["flip", "missing"])
def test_a_file_that_is_not_the_manifests_is_refused(store, meddler, tmp_path, harm):
    committed = publish(store, make_output(tmp_path / "out"))
    path = f"stages/{KEY}/one/adapter.bin"
    if harm == "flip":
        meddler.put(path, b"Weights" + b"weights" * 999)
    else:
        meddler.delete(path)
    with pytest.raises(StageFailure) as caught:
        store.download(committed.manifest, tmp_path / "back")
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT
    assert f"{path}: " in caught.value.problems[0].message
    assert f"stages/{KEY}/manifest.json" in caught.value.problems[0].remedy


def test_a_manifest_cannot_write_outside_its_folder(store, tmp_path):
    bad = manifest([ManifestFile(path="../../evil", size=1, sha256="b" * 64)])
    with pytest.raises(StageFailure, match="leaves its folder"):
        store.download(bad, tmp_path / "back")


@pytest.mark.parametrize(
    ("path", "inside"),
    [("a", True), ("a/b.c", True), ("/a", False), ("a/../b", False), ("..", False), ("a//b", False), ("./a", False)],
)
def test_paths_of_manifests(path, inside):
    assert is_inside(path) is inside


def test_nonsense_where_a_manifest_should_be(store, meddler):
    meddler.put(f"stages/{KEY}/manifest.json", b'{"version": 1}')
    with pytest.raises(StageFailure) as caught:
        store.read_manifest(KEY)
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT


def test_a_manifest_of_another_key_is_refused(store, meddler, tmp_path):
    committed = publish(store, make_output(tmp_path / "out"))
    meddler.put(f"stages/{'c' * 64}/manifest.json", committed.manifest.model_dump_json().encode())
    with pytest.raises(StageFailure, match="another stage"):
        store.read_manifest("c" * 64)


def test_large_files_go_in_parts(s3, tmp_path):
    body = bytes(range(256)) * (40 * 4096)
    out = tmp_path / "out"
    out.mkdir()
    (out / "large").write_bytes(body)
    s3.bucket("parts")
    store = ArtifactStore.on(connect(s3.storage("s3://parts"), s3.credentials(tmp_path / "secret"), QUICK))
    committed = publish(store, out)
    store.download(committed.manifest, tmp_path / "back")
    assert (tmp_path / "back/large").read_bytes() == body


def failure_of(store: ArtifactStore) -> StageFailure:
    with pytest.raises(StageFailure) as caught:
        store.write_document("prepared/x/1.json", b"{}")
    return caught.value


def test_a_bucket_that_is_not_there(s3, tmp_path):
    store = ArtifactStore.on(connect(s3.storage("s3://no-such/x"), s3.credentials(tmp_path), QUICK))
    failure = failure_of(store)
    assert (failure.reason, failure.exit_code) == (Reason.BUCKET_NOT_FOUND, ExitCode.BAD_INPUT)
    assert (failure.problems[0].path, failure.problems[0].value) == ("spec.storage.uri", "s3://no-such/x")
    assert "no-such" in failure.problems[0].message
    assert failure.problems[0].remedy


@pytest.mark.parametrize("wrong", [{"secret": "WRONG"}, {"key_id": "SOMEBODYELSE"}])
def test_wrong_credentials(s3, tmp_path, wrong):
    s3.bucket("store-test")
    store = ArtifactStore.on(connect(s3.storage("s3://store-test"), s3.credentials(tmp_path, **wrong), QUICK))
    failure = failure_of(store)
    assert (failure.reason, failure.exit_code) == (Reason.CREDENTIALS_INVALID, ExitCode.BAD_INPUT)
    assert failure.problems[0].path == "spec.storage.credentialsSecretRef"
    assert "WRONG" not in str(failure)


def test_a_secret_without_a_key(s3, tmp_path):
    s3.credentials(tmp_path)
    (tmp_path / "AWS_SECRET_ACCESS_KEY").unlink()
    with pytest.raises(StageFailure, match="AWS_SECRET_ACCESS_KEY"):
        connect(s3.storage("s3://store-test"), tmp_path, QUICK)


def test_an_endpoint_that_nobody_listens_on_is_known_soon(s3, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        storage = s3.storage("s3://store-test").model_copy(
            update={"endpoint": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        )
        started = time.monotonic()
        failure = failure_of(ArtifactStore.on(connect(storage, s3.credentials(tmp_path), QUICK)))
    assert time.monotonic() - started < 10
    assert (failure.reason, failure.exit_code) == (Reason.STORE_UNAVAILABLE, ExitCode.INFRASTRUCTURE)
    assert failure.problems[0].path == "spec.storage.endpoint"


ODD = ["a+b c%2F&é#?=.bin", "~'()!*;,@$.txt", "日本/語.json", '<&>".xml', "deep/.hidden", "two  spaces"]


def test_keys_with_odd_characters(store, tmp_path):
    """Each is escaped in its own way in a URL, in what is signed, and in the XML of a listing."""
    for name in ODD:
        _put_file(tmp_path / "out" / name, name.encode())
    committed = publish(store, tmp_path / "out")
    assert sorted(file.path for file in committed.manifest.files) == sorted(ODD)
    assert store.damage(committed.manifest) == []
    store.download(committed.manifest, tmp_path / "back")
    assert all((tmp_path / "back" / name).read_bytes() == name.encode() for name in ODD)


def test_a_folder_that_a_console_made_is_no_object(s3, tmp_path, monkeypatch):
    uri = f"s3://{s3.bucket('store-test')}/{tmp_path.name}"
    objects = connect(s3.storage(uri), s3.credentials(tmp_path / "secret"), QUICK).objects(Place("p", uri, None))
    objects.write("model/config.json", b"{}")
    pages = objects._pages

    def with_folder(prefix, **more):
        for page in pages(prefix, **more):
            folder = {**page["Contents"][0], "Key": f"{tmp_path.name}/model/", "Size": 0}
            yield {**page, "Contents": [folder, *page["Contents"]]}

    monkeypatch.setattr(objects, "_pages", with_folder)
    assert [item.key for item in objects.list("")] == ["model/config.json"]


def test_a_manifest_of_another_namespace_is_refused(tmp_path):
    objects = FolderObjects(tmp_path / "store")
    publish(ArtifactStore(objects, "file://store"), make_output(tmp_path / "out"))
    assert ArtifactStore(objects, "file://store", "ns").read_manifest(KEY)
    with pytest.raises(StageFailure, match=r"a job of another namespace \(ns\)"):
        ArtifactStore(objects, "file://store", "other").read_manifest(KEY)
