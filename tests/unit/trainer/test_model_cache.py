"""The cache of input models: fetched once, whole, by any number of pods, and never taken away from one."""

from __future__ import annotations

import fcntl
import io
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.model_cache import ModelCache
from finetune_trainer.report import Reporter

A, B, C = "a" * 64, "b" * 64, "c" * 64
SIZE = 1000


class Fetcher:
    """Fills a folder, and counts how often it was asked."""

    def __init__(self, content: bytes = b"w" * SIZE) -> None:
        self.content, self.calls = content, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/model.safetensors").write_bytes(self.content)


def cache(root: Path, limit: int = 10 * SIZE) -> ModelCache:
    return ModelCache(root, limit, Reporter(io.StringIO()))


def test_a_model_is_fetched_once(tmp_path: Path) -> None:
    fetch = Fetcher()
    first = cache(tmp_path).folder(A, SIZE, fetch)
    second = cache(tmp_path).folder(A, SIZE, fetch)
    assert first is not None
    assert first == second
    assert (first / "deep/model.safetensors").read_bytes() == fetch.content
    assert fetch.calls == 1


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_bytes(b"1")
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        cache(tmp_path).folder(A, SIZE, fail)
    assert [path.name for path in tmp_path.iterdir()] == [f"{A}.lock"]
    assert cache(tmp_path).folder(A, SIZE, Fetcher())


@pytest.mark.parametrize("harm", ["flip", "remove", "nonsense"])
def test_a_damaged_model_is_fetched_again(tmp_path: Path, harm: str) -> None:
    fetch, first = Fetcher(), cache(tmp_path)
    folder = first.folder(A, SIZE, fetch)
    assert folder is not None
    first.close()
    path = folder / "deep/model.safetensors"
    if harm == "flip":
        path.write_bytes(b"W" + fetch.content[1:])
    elif harm == "remove":
        path.unlink()
    else:
        (folder.parent / "hashes.json").write_text("[1]")
    again = cache(tmp_path).folder(A, SIZE, fetch)
    assert again is not None
    assert (again / "deep/model.safetensors").read_bytes() == fetch.content
    assert fetch.calls == 2


def test_the_one_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    for digest in (A, B, A):
        user = cache(tmp_path, limit=2 * SIZE + 800)
        assert user.folder(digest, SIZE, Fetcher())
        user.close()
        time.sleep(0.02)
    assert cache(tmp_path, limit=2 * SIZE + 800).folder(C, SIZE, Fetcher())
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {A, C}


def test_one_in_use_stays(tmp_path: Path) -> None:
    user = cache(tmp_path)
    folder = user.folder(A, SIZE, Fetcher())
    assert cache(tmp_path, limit=SIZE).folder(B, SIZE, Fetcher())
    assert folder is not None
    assert (folder / "deep/model.safetensors").is_file()
    user.close()
    assert cache(tmp_path, limit=SIZE).folder(C, SIZE, Fetcher())
    assert not folder.exists()


def test_a_model_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    fetch = Fetcher()
    assert cache(tmp_path, limit=SIZE - 1).folder(A, SIZE, fetch) is None
    assert fetch.calls == 0


def test_a_full_volume_is_no_failure(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    assert cache(tmp_path).folder(A, SIZE, full) is None


def _pod(root: Path, log: Path, start: Any) -> None:
    def fetch(folder: Path) -> None:
        with log.open("a") as file:
            file.write("fetched\n")
        time.sleep(0.3)
        Fetcher()(folder)

    start.wait()
    folder = cache(root).folder(A, SIZE, fetch)
    assert folder is not None
    assert (folder / "deep/model.safetensors").read_bytes() == b"w" * SIZE


def test_many_pods_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, log = context.Event(), tmp_path / "log"
    pods = [context.Process(target=_pod, args=(tmp_path / "cache", log, start)) for _ in range(5)]
    for pod in pods:
        pod.start()
    start.set()
    for pod in pods:
        pod.join(30)
    assert [pod.exitcode for pod in pods] == [0] * 5
    assert log.read_text() == "fetched\n"


def test_a_pod_that_was_killed_while_it_fetched(tmp_path: Path) -> None:
    left = tmp_path / f"{A}.partial-1234"
    left.mkdir()
    (left / "half").write_bytes(b"1")
    assert cache(tmp_path).folder(A, SIZE, Fetcher())
    assert not left.exists()


def test_a_shared_lock_is_let_go_before_it_is_wanted_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS does not do so by itself, as local disks do: two pods would wait for each other."""
    asked: list[int] = []
    real = fcntl.flock
    monkeypatch.setattr(
        "finetune_trainer.model_cache.fcntl.flock", lambda lock, how: (asked.append(how), real(lock, how))[1]
    )
    cache(tmp_path).folder(A, SIZE, Fetcher())
    assert asked == [fcntl.LOCK_SH, fcntl.LOCK_UN, fcntl.LOCK_EX, fcntl.LOCK_SH]
