"""The cache of input models: fetched once, whole, by any number of pods, and never taken away from one."""

from __future__ import annotations

import fcntl
import io
import multiprocessing
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer import model_cache
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


def test_a_fresh_model_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = model_cache.hash_file
    monkeypatch.setattr(model_cache, "hash_file", lambda path: (read.append(path.name), real(path))[1])
    assert cache(tmp_path).folder(A, SIZE, Fetcher())
    assert read == ["model.safetensors"]
    assert cache(tmp_path).folder(A, SIZE, Fetcher())
    assert read == ["model.safetensors"] * 2, "what was kept before is read before it is used"


def test_a_model_that_goes_while_its_lock_changes_hands_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, real, turns = Fetcher(), fcntl.flock, [0]

    def flock(lock: int, how: int) -> None:
        turns[0] += how == fcntl.LOCK_SH
        if how == fcntl.LOCK_SH and turns[0] == 2:
            shutil.rmtree(tmp_path / A)
        real(lock, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = cache(tmp_path).folder(A, SIZE, fetch)
    assert folder is not None
    assert (folder / "deep/model.safetensors").is_file()
    assert fetch.calls == 2


def _as_user(uid: int, work: Callable[[], bool], groups: list[int]) -> bool:
    """What `work` says in a process of another user, whose umask lets nobody else in."""

    def run() -> None:
        os.setgroups(groups)
        os.setgid(uid)
        os.setuid(uid)
        os.umask(0o077)
        os._exit(0 if work() else 1)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(30)
    return process.exitcode == 0


GROUP = 5000


@pytest.fixture
def volume() -> Iterator[Path]:
    """A folder as a volume with fsGroup is mounted, where every user can come to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "volume"
        folder.mkdir()
        os.chown(folder, 0, GROUP)
        folder.chmod(0o2775)
        yield folder


def test_all_is_the_groups_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert cache(tmp_path / "volume").folder(A, SIZE, Fetcher())
        assert os.umask(0o077) == 0o077, "the process's own is put back"
    finally:
        os.umask(before)
    paths = [tmp_path / "volume", *(tmp_path / "volume").rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o2775}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o664}


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


@root_only
def test_users_of_one_group_share_what_is_kept(volume: Path) -> None:
    def keeps(digest: str, calls: int, limit: int = 10 * SIZE) -> Callable[[], bool]:
        def work() -> bool:
            fetch = Fetcher()
            folder = cache(volume, limit).folder(digest, SIZE, fetch)
            return folder is not None and folder.is_relative_to(volume) and fetch.calls == calls

        return work

    (volume / f"{C}.partial-left").mkdir()
    assert _as_user(2001, keeps(A, calls=1), [GROUP])
    assert _as_user(2002, keeps(A, calls=0), [GROUP]), "it reads the other's"
    assert _as_user(2002, keeps(B, calls=1, limit=SIZE + 500), [GROUP])
    assert {path.name for path in volume.iterdir() if path.is_dir()} == {B}, "and takes the other's away for room"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (volume / B).rglob("*") if path.is_file()}
    assert modes == {0o664}


@root_only
def test_a_user_of_no_group_fetches_for_itself(volume: Path) -> None:
    assert cache(volume).folder(A, SIZE, Fetcher())
    fetch = Fetcher()

    def reads() -> bool:
        return cache(volume).folder(A, SIZE, fetch) is not None and fetch.calls == 0

    def cannot_write() -> bool:
        return cache(volume).folder(B, SIZE, fetch) is None

    assert _as_user(2003, reads, [])
    assert _as_user(2003, cannot_write, [])


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


def test_what_killed_pods_left_of_other_models_is_removed(tmp_path: Path) -> None:
    abandoned, being_fetched = tmp_path / f"{B}.partial-1", tmp_path / f"{C}.partial-1"
    for folder in (abandoned, being_fetched):
        folder.mkdir()
    with (tmp_path / f"{C}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache(tmp_path).folder(A, SIZE, Fetcher())
    assert (abandoned.exists(), being_fetched.exists()) == (False, True)
