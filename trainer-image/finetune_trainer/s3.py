"""S3 and its kin, through boto3: bounded in time, memory and parallelism, with failures that name the field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore import exceptions as boto
from botocore.config import Config
from s3transfer.exceptions import RetriesExceededError

from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_api.storage import Storage
from finetune_trainer.errors import bad_input
from finetune_trainer.objects import HashingReader, HashingWriter, MissingObjectError, ObjectInfo, Transferred
from finetune_trainer.s3_errors import CREDENTIALS_PATH, Place, error_code, failure_of, http_status

_MIB = 1 << 20
# A transfer holds at most 10 chunks of each direction in memory: 160 MiB.
_TRANSFER = TransferConfig(
    multipart_threshold=16 * _MIB,
    multipart_chunksize=16 * _MIB,
    max_concurrency=8,
    preferred_transfer_client="classic",
)
_BROKEN_STREAM = (boto.ReadTimeoutError, boto.ResponseStreamingError, boto.IncompleteReadError)


@dataclass(frozen=True)
class Patience:
    """How long a store may stay silent: requests in all (with growing, random pauses between) and their limits."""

    attempts: int
    connect_seconds: float
    read_seconds: float


# prepare: a wrong endpoint is known within 10 seconds.
QUICK = Patience(attempts=3, connect_seconds=2, read_seconds=5)
# Everything else: a store that restarts is waited for, about a minute.
STEADY = Patience(attempts=8, connect_seconds=10, read_seconds=60)


@dataclass(frozen=True)
class S3Client:
    """A client of the server that `storage` names."""

    storage: Storage
    client: Any
    patience: Patience

    def objects(self, place: Place) -> S3Objects:
        """What lies below `place.uri`."""
        return S3Objects(self, place)


def connect(storage: Storage, credentials: Path | None, patience: Patience = STEADY) -> S3Client:
    """A client of `storage`; asks the server nothing yet.

    `credentials` is the folder of a mounted Secret; None leaves it to boto3's default chain. Raises StageFailure
    (CredentialsInvalid) where the folder lacks a key.
    """
    client = boto3.client(
        "s3",
        endpoint_url=storage.endpoint,
        region_name=storage.region or "us-east-1",
        config=Config(
            s3={"addressing_style": "path" if storage.force_path_style else "auto"},
            retries={"mode": "standard", "total_max_attempts": patience.attempts},
            connect_timeout=patience.connect_seconds,
            read_timeout=patience.read_seconds,
            max_pool_connections=16,
            # Many servers know no CRC trailers; what counts is checked by sha256 anyway.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
        **(_secret(storage, credentials) if credentials else {}),
    )
    return S3Client(storage, client, patience)


def _secret(storage: Storage, folder: Path) -> dict[str, str]:
    required = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    values: dict[str, str] = {}
    for argument, name in {**required, "aws_session_token": "AWS_SESSION_TOKEN"}.items():
        path = folder / name
        value = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        if value:
            values[argument] = value
        elif argument in required:
            secret = storage.credentials_secret_ref.name if storage.credentials_secret_ref else None
            found = problem(CREDENTIALS_PATH, secret, f"the Secret has no {name}", "Add this key to the Secret.")
            raise bad_input(Reason.CREDENTIALS_INVALID, found)
    return values


class S3Objects:
    """The objects below a place; implements `objects.Objects`."""

    def __init__(self, connection: S3Client, place: Place) -> None:
        bucket, _, prefix = place.uri.removeprefix("s3://").partition("/")
        self._client = connection.client
        self._connection = connection
        self._place = place
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def info(self, key: str) -> ObjectInfo | None:
        """The object, or None where it is not there."""
        with self._failures():
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            except boto.ClientError as error:
                if http_status(error) == 404:
                    return None
                raise
        version = head.get("VersionId")
        tag = head["ETag"].strip('"') if version in (None, "null") else version
        return ObjectInfo(key, head["ContentLength"], tag)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects whose key starts with `prefix`, by key."""
        found: list[ObjectInfo] = []
        with self._failures():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self._prefix)
                    found.append(ObjectInfo(key, item["Size"], item["ETag"].strip('"')))
        return sorted(found, key=lambda item: item.key)

    def read(self, key: str) -> bytes | None:
        """A small object's content, or None where it is not there."""
        with self._failures():
            for left in reversed(range(self._connection.patience.attempts)):
                try:
                    answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                    return cast(bytes, answer["Body"].read())
                except _BROKEN_STREAM:
                    if not left:
                        raise
                except boto.ClientError as error:
                    if error_code(error) in ("NoSuchKey", "404"):
                        return None
                    raise
        return None

    def write(self, key: str, body: bytes, *, only_new: bool = False) -> None:
        """Puts a small object. `only_new`: leaves what is there alone, on servers that can."""
        request = {"Bucket": self._bucket, "Key": self._prefix + key, "Body": body}
        with self._failures():
            if not only_new:
                self._client.put_object(**request)
                return
            try:
                self._client.put_object(**request, IfNoneMatch="*")
            except boto.ClientError as error:
                if http_status(error) in (409, 412):
                    return
                if http_status(error) != 501:
                    raise
                self._client.put_object(**request)

    def upload(self, files: Mapping[str, Path]) -> dict[str, Transferred]:
        """Sends each file to its key, and says by key what was sent."""
        with self._failures(), ExitStack() as stack:
            readers = {key: HashingReader(stack.enter_context(path.open("rb"))) for key, path in files.items()}
            manager = stack.enter_context(create_transfer_manager(self._client, _TRANSFER))
            sent = [manager.upload(reader, self._bucket, self._prefix + key) for key, reader in readers.items()]
            for future in sent:
                future.result()
        return {key: reader.transferred() for key, reader in readers.items()}

    def download(self, files: Mapping[str, Path]) -> dict[str, Transferred]:
        """Fetches each key into its file, whose folder is made, and says by key what came.

        Raises MissingObjectError.
        """
        writers: dict[str, HashingWriter] = {}
        with self._failures(), ExitStack() as stack:
            for key, path in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                writers[key] = HashingWriter(stack.enter_context(path.open("wb")))
            manager = stack.enter_context(create_transfer_manager(self._client, _TRANSFER))
            came = {key: manager.download(self._bucket, self._prefix + key, writer) for key, writer in writers.items()}
            for key, future in came.items():
                self._arrive(key, future)
        return {key: writer.transferred() for key, writer in writers.items()}

    def delete(self, keys: Sequence[str]) -> None:
        """Takes objects away, in this order; one that is not there is no error."""
        with self._failures():
            for key in keys:
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def _arrive(self, key: str, future: Any) -> None:
        try:
            future.result()
        except boto.ClientError as error:
            if error_code(error) in ("NoSuchKey", "404"):
                raise MissingObjectError(key) from error
            raise

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except RetriesExceededError as error:
            raise failure_of(error.last_exception, self._place, self._connection.storage) from error
        except (boto.ClientError, boto.BotoCoreError) as error:
            raise failure_of(error, self._place, self._connection.storage) from error
