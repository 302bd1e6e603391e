"""The store's speed: some GiB up and down as the trainer moves artifacts, against `rclone copy`, on one S3 server.

Both move the same files to and from the same `rclone serve s3` on this machine, each as a process of its own that is
timed from start to end. The trainer's includes its sha256 of every byte and its check of what the store shows; rclone's
its own checks, with its default settings. What is compared is moved one right after the other, who goes first takes
turns, and before each transfer everything is written to the disk and what will be read is in the page cache. The
share of a direction is the median of its rounds'.

    python bench/store.py                 # 4 GiB in four files, two rounds
    python bench/store.py --gib 1 --rounds 6

Exit code 1 where the trainer is slower than 0.9 of rclone in either direction, or its peak RSS is over 300 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.stage import JobRef, Manifest
from finetune_api.storage import Storage
from finetune_trainer.s3 import connect
from finetune_trainer.store import ArtifactStore

if TYPE_CHECKING:
    from finetune_local.s3 import S3Server

BUCKET = "bench"
KEY = "a" * 64
LEAST_SHARE = 0.9
MOST_RSS_MIB = 300
_MIB = 1 << 20


@dataclass(frozen=True)
class Took:
    """One transfer by one process: wall seconds, the process's peak RSS in MiB, and its CPU seconds."""

    seconds: float
    rss: float
    cpu: float


def main() -> int:
    """Runs the rounds, prints every figure, and says whether the limits hold."""
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="bench-store-", dir=options.folder) as folder:
        return asyncio.run(_bench(Path(folder), options))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=4.0, help="size of all files together")
    parser.add_argument("--files", type=int, default=4, help="how many files they are")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", help="where the files lie; default: the system's temporary folder")
    return parser.parse_args()


async def _bench(folder: Path, options: argparse.Namespace) -> int:
    # Not by the processes that move files: the trainer has none of it.
    from finetune_local.s3 import Credentials, S3Server  # noqa: PLC0415

    source = folder / "source"
    size = _make_files(source, int(options.gib * (1 << 30)), options.files)
    server = S3Server(folder / "s3", Credentials("BENCHSTORE", "bench-store-secret"))
    server.make_bucket(BUCKET)
    async with server:
        return await asyncio.to_thread(_rounds, folder, source, size, server, options.rounds)


def _rounds(folder: Path, source: Path, size: int, server: S3Server, rounds: int) -> int:
    print(f"{size / (1 << 30):.1f} GiB in {len(list(source.iterdir()))} files, load {os.getloadavg()[0]:.1f}")
    took: dict[str, list[Took]] = defaultdict(list)
    for number in range(rounds):
        order = ("ours", "rclone") if number % 2 == 0 else ("rclone", "ours")
        for direction in ("up", "down"):
            for who in order:
                there = server.folder / "buckets" / BUCKET / who
                target = folder / f"{who}-down"
                _settle(source if direction == "up" else there)
                found = _timed(_command(who, direction, server, source, target), server)
                if direction == "down":
                    _require_same(source, target)
                    shutil.rmtree(target)
                    shutil.rmtree(there)
                took[f"{who} {direction}"].append(found)
                print(
                    f"round {number + 1}  {who:6} {direction:4} {found.seconds:6.1f} s"
                    f"  {size / _MIB / found.seconds:6.0f} MiB/s  {found.cpu:5.1f} CPU s  peak RSS {found.rss:4.0f} MiB"
                    f"  load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    return _verdict(took)


def _verdict(took: dict[str, list[Took]]) -> int:
    ends = 0
    for direction in ("up", "down"):
        ours, rclone = took[f"ours {direction}"], took[f"rclone {direction}"]
        shares = [theirs.seconds / own.seconds for own, theirs in zip(ours, rclone, strict=True)]
        share, rss = statistics.median(shares), max(item.rss for item in ours)
        good = share >= LEAST_SHARE and rss <= MOST_RSS_MIB
        print(
            f"{direction:4} {share:.2f} of rclone copy ({min(shares):.2f} to {max(shares):.2f}, at least {LEAST_SHARE}"
            f"), peak RSS {rss:.0f} MiB (at most {MOST_RSS_MIB}): {'good' if good else 'MISSED'}"
        )
        ends |= not good
    return int(ends)


def _settle(folder: Path) -> None:
    """Leaves nothing to be written, and the files that are read next in the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(_MIB):
                    pass


def _make_files(folder: Path, total: int, count: int) -> int:
    """`count` files of bytes that nobody can compress; returns their size together."""
    folder.mkdir()
    size = total // count // _MIB * _MIB
    for number in range(count):
        with (folder / f"model-{number + 1:05d}-of-{count:05d}.safetensors").open("wb") as file:
            for _ in range(size // _MIB):
                file.write(os.urandom(_MIB))
    os.sync()
    return size * count


def _require_same(source: Path, target: Path) -> None:
    for path in source.iterdir():
        subprocess.run(["cmp", str(path), str(target / path.name)], check=True)


def _timed(command: list[str], server: S3Server) -> Took:
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": server.credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": server.credentials.secret_key,
        "RCLONE_CONFIG": str(server.folder / "client.conf"),
    }
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    process.returncode = 0
    return Took(time.monotonic() - started, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def _command(who: str, direction: str, server: S3Server, source: Path, target: Path) -> list[str]:
    if who == "ours":
        place = source if direction == "up" else target
        return [sys.executable, __file__, "--move", direction, server.endpoint, str(place)]
    remote = f":s3,provider=Other,env_auth,endpoint='{server.endpoint}':{BUCKET}/rclone"
    words = [str(source), remote] if direction == "up" else [remote, str(target)]
    return [str(Path(sysconfig.get_path("scripts")) / "rclone"), "copy", "--quiet", *words]


def move(direction: str, endpoint: str, folder: Path) -> None:
    """What a stage does with its output, and the next one with it, in this process."""
    store = ArtifactStore.on(connect(Storage(uri=f"s3://{BUCKET}/ours", endpoint=endpoint), None))
    if direction == "up":
        files = store.upload(KEY, "one", folder)
        job = JobRef(namespace="bench", name="bench", uid="u", generation=1)
        times = {"started_at": "", "finished_at": ""}
        store.commit(Manifest(stage="merge", type="M", key=KEY, attempt="one", job=job, files=files, **times))
        return
    found = store.whole(KEY)
    assert found
    store.download(found.manifest, folder)


def _start(words: Sequence[str]) -> int:
    if words[:1] == ["--move"]:
        move(words[1], words[2], Path(words[3]))
        return 0
    return main()


if __name__ == "__main__":
    sys.exit(_start(sys.argv[1:]))
