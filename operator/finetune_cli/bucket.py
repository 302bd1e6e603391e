"""Object storage as the command line uses it: uploading inputs, reading results back and checking them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import urlsplit

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from finetune_api.storage import Storage
from finetune_cli.errors import environment

# Servers other than AWS do not all know the checksums that newer clients send by themselves.
_CONFIG: dict[str, Any] = {
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    "connect_timeout": 5,
    "read_timeout": 60,
    "retries": {"max_attempts": 3, "mode": "standard"},
}
_CHUNK = 1 << 20
# A download is given up after so many requests in a row that brought nothing.
_TRIES = 3


class Bucket:
    """One S3 server with one set of credentials. URIs are `s3://bucket/key`; errors are CliErrors."""

    def __init__(self, storage: Storage, credentials: Mapping[str, str]) -> None:
        style = "path" if storage.force_path_style else "auto"
        self.where = storage.endpoint or "AWS"
        self._s3 = boto3.client(
            "s3",
            endpoint_url=storage.endpoint,
            region_name=storage.region or "us-east-1",
            aws_access_key_id=credentials.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=credentials.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=credentials.get("AWS_SESSION_TOKEN"),
            config=Config(s3={"addressing_style": style}, **_CONFIG),
        )

    @classmethod
    def by_secret(cls, storage: Storage, secret: Mapping[str, Any]) -> Self:
        """With the credentials of a Kubernetes Secret object."""
        try:
            data = {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}
        except (binascii.Error, UnicodeDecodeError) as error:
            raise environment(f"the Secret {secret['metadata']['name']} holds no text: {error}") from error
        return cls(storage, data)

    def upload(self, source: Path, uri: str) -> int:
        """Put a file at `uri`, or a folder's files below it; how many bytes they were."""
        total = 0
        for path, target in _targets(source, uri):
            bucket, key = _split(target)
            try:
                self._s3.upload_file(str(path), bucket, key)
            except (BotoCoreError, ClientError, OSError) as error:
                raise environment(f"{path} could not be uploaded to {target} at {self.where}: {error}") from error
            total += path.stat().st_size
        return total

    def read(self, uri: str) -> bytes:
        """The object at `uri`, whole."""
        bucket, key = _split(uri)
        try:
            body: bytes = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except (BotoCoreError, ClientError, OSError) as error:
            raise environment(f"{uri} could not be read at {self.where}: {error}") from error
        return body

    def download(self, uri: str, target: Path) -> None:
        """Write the object at `uri` to the file `target`; a stream that breaks goes on where it broke.

        Not by boto3's own download_file, which was seen to lock up for good with several large files.
        """
        bucket, key = _split(uri)
        try:
            head = self._s3.head_object(Bucket=bucket, Key=key)
            with target.open("wb") as file:
                silent = 0
                while file.tell() < head["ContentLength"]:
                    before = file.tell()
                    try:
                        self._fetch_rest({"Bucket": bucket, "Key": key, "IfMatch": head["ETag"]}, file)
                    except BotoCoreError:
                        silent = silent + 1 if file.tell() == before else 0
                        if silent == _TRIES:
                            raise
        except (BotoCoreError, ClientError, OSError) as error:
            raise environment(f"{uri} could not be fetched from {self.where}: {error}") from error

    def _fetch_rest(self, wanted: Mapping[str, str], file: BinaryIO) -> None:
        """Write what `file` lacks of an object that it holds the beginning of."""
        with closing(self._s3.get_object(**wanted, Range=f"bytes={file.tell()}-")["Body"]) as body:
            while content := body.read(_CHUNK):
                file.write(content)


def _targets(source: Path, uri: str) -> Iterator[tuple[Path, str]]:
    if source.is_file():
        yield source, uri
        return
    for path in sorted(source.rglob("*")):
        if path.is_file():
            yield path, f"{uri.rstrip('/')}/{path.relative_to(source).as_posix()}"


def _split(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.netloc, parts.path.lstrip("/")
