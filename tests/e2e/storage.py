"""Object storage for a real cluster whose operator of tests names none: rclone on this machine, as pods reach it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .api import wait_for


@dataclass(frozen=True)
class Served:
    """An S3 server of the tests' own: its URL for pods, its URL here, and its keys."""

    endpoint: str
    here: str
    credentials: dict[str, str]


@contextmanager
def serve(folder: Path, api_url: str, bucket: str) -> Iterator[Served]:
    """`rclone serve s3` on every address of this machine, with one bucket, until the context ends."""
    (folder / "buckets" / bucket).mkdir(parents=True)
    port, key, secret = _free_port(), f"E2E{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)
    command = [
        str(Path(sysconfig.get_path("scripts")) / "rclone"),
        *("serve", "s3", "--addr", f"0.0.0.0:{port}", "--config", str(folder / "rclone.conf")),
        *("--cache-dir", str(folder / "cache"), "--dir-cache-time", "1s", "--poll-interval", "0"),
        str(folder / "buckets"),
    ]
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], "RCLONE_AUTH_KEY": f'"{key},{secret}"'}
    with (folder / "rclone.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for("rclone to listen", lambda: _listens(process, port), 20)
        credentials = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        yield Served(f"http://{own_address(api_url)}:{port}", f"http://127.0.0.1:{port}", credentials)
    finally:
        process.terminate()
        process.wait(timeout=10)


def own_address(api_url: str) -> str:
    """This machine's address as a cluster's pods reach it.

    It is the one that this machine would speak to the API server with; where the server is on this machine, the one
    that leads outwards. Connecting a datagram socket sends nothing.
    """
    for target in (urlsplit(api_url).hostname or "", "192.0.2.1"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
            except OSError:
                continue
            address = str(probe.getsockname()[0])
        if not address.startswith("127."):
            return address
    return socket.gethostbyname(socket.gethostname())


def server_address(api_url: str, *, local: bool) -> tuple[str, str]:
    """Where a server of the tests listens, and the host by which pods reach it."""
    return ("127.0.0.1", "127.0.0.1") if local else ("0.0.0.0", own_address(api_url))


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "rclone ended"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
