"""Objects that are fetched from a store whose streams break."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ResponseStreamingError

from finetune_api.storage import Storage
from finetune_cli.bucket import Bucket
from finetune_cli.errors import CliError

BODY = bytes(range(256)) * 10


class Breaking(io.BytesIO):
    """Breaks after its first 1000 bytes."""

    def read(self, amount: int | None = -1) -> bytes:
        del amount
        if self.tell():
            raise ResponseStreamingError(error="reset")
        return super().read(1000)


class Server:
    """An object of which each request brings `1000` bytes more, or none."""

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self.asked: list[str] = []

    def head_object(self, **_: Any) -> dict[str, Any]:
        return {"ContentLength": len(BODY), "ETag": "tag"}

    def get_object(self, **request: Any) -> dict[str, Any]:
        assert request["IfMatch"] == "tag"
        self.asked.append(request["Range"])
        if self.silent:
            raise ResponseStreamingError(error="nobody answers")
        return {"Body": Breaking(BODY[int(request["Range"][6:-1]) :])}


def bucket(server: Server) -> Bucket:
    found = Bucket(Storage(uri="s3://bucket/jobs"), {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    found._s3 = server  # type: ignore[assignment]
    return found


def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    server = Server()
    bucket(server).download("s3://bucket/key", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked == ["bytes=0-", "bytes=1000-", "bytes=2000-"]


def test_a_store_that_stays_silent_is_given_up(tmp_path: Path) -> None:
    server = Server(silent=True)
    with pytest.raises(CliError, match=r"s3://bucket/key could not be fetched from AWS: .*nobody answers"):
        bucket(server).download("s3://bucket/key", tmp_path / "file")
    assert len(server.asked) == 3
