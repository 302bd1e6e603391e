"""S3 and its kin, through botocore: bounded in time, memory and parallelism, with failures that name the field."""

from __future__ import annotations

import base64
import builtins
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from botocore import exceptions as boto

from finetune_api.storage import Storage
from finetune_trainer.objects import MissingObjectError, Moved, ObjectInfo, Transferred
from finetune_trainer.s3_errors import Place, error_code, failure_of, http_status, is_busy, unlike_sent
from finetune_trainer.s3_fetching import Fetching, GoneError, hash_objects
from finetune_trainer.s3_identity import DEFAULT_REGION, Handed, open_session
from finetune_trainer.s3_retries import BROKEN, QUICK, STEADY, Patience, patiently
from finetune_trainer.s3_sending import Sending, UnlikeSentError, same_content
from finetune_trainer.s3_wire import WORKERS, Wire, md5

__all__ = ["QUICK", "STEADY", "Handed", "Patience", "S3Client", "S3Objects", "connect"]


@dataclass(frozen=True)
class S3Client:
    """A client of the server that `storage` names."""

    storage: Storage
    client: Any
    patience: Patience

    def objects(self, place: Place) -> S3Objects:
        """What lies below `place.uri`."""
        return S3Objects(self, place)


def connect(storage: Storage, handed: Handed | Path | None = None, patience: Patience = STEADY) -> S3Client:
    """A client of `storage`; asks neither the store nor STS anything yet.

    `handed` is what the pod was given for the store, or the folder of a Secret's keys alone; None leaves it to
    botocore's own chain, which may ask the node's metadata service. Raises StageFailure (CredentialsInvalid) where the
    folder lacks a key.
    """
    handed = handed if isinstance(handed, Handed) else Handed(keys=handed)
    client = open_session(storage, handed, patience).create_client(
        "s3",
        endpoint_url=storage.endpoint,
        region_name=storage.region or DEFAULT_REGION,
        verify=handed.verify,
        config=patience.config(
            s3={"addressing_style": _addressing(storage)},
            max_pool_connections=2 * WORKERS,
            # Many servers know no CRC trailers: what is put goes with its MD5, and what counts is checked by sha256.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    return S3Client(storage, client, patience)


def _addressing(storage: Storage) -> str:
    if storage.force_path_style:
        return "path"
    # botocore's "auto" puts the bucket into the path of every endpoint that is not AWS's.
    return "virtual" if storage.endpoint else "auto"


def _encryption(storage: Storage) -> dict[str, Any]:
    """What every request that puts something says of it."""
    wanted = storage.encryption
    if wanted is None:
        return {}
    said: dict[str, Any] = {"ServerSideEncryption": wanted.type}
    if wanted.kms_key_id:
        said["SSEKMSKeyId"] = wanted.kms_key_id
    return {**said, "BucketKeyEnabled": True} if wanted.bucket_key else said


class S3Objects:
    """The objects below a place; implements `objects.Objects`."""

    def __init__(self, connection: S3Client, place: Place) -> None:
        bucket, _, prefix = place.uri.removeprefix("s3://").partition("/")
        self._connection = connection
        self._place = place
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._wire = Wire(connection.client, bucket, connection.patience, _encryption(connection.storage))

    def info(self, key: str) -> ObjectInfo | None:
        """The object, or None where it is not there."""
        with self._failures():
            try:
                head = self._wire.call("head_object", Key=self._prefix + key)
            except boto.ClientError as error:
                if http_status(error) == 404:
                    return None
                raise
        version = head.get("VersionId")
        tag = head["ETag"].strip('"') if version in (None, "null") else version
        return ObjectInfo(key, head["ContentLength"], tag)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects whose key starts with `prefix`, by key."""
        with self._failures():
            found = patiently(self._wire.patience, lambda: list(self._listed(self._prefix + prefix)))
        return sorted(found, key=lambda item: item.key)

    def _pages(self, prefix: str, **more: str) -> Iterator[dict[str, Any]]:
        pages = self._wire.client.get_paginator("list_objects_v2")
        yield from pages.paginate(Bucket=self._wire.bucket, Prefix=prefix, **more)

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        for page in self._pages(prefix):
            for item in page.get("Contents", []):
                if item["Key"].endswith("/"):
                    # A folder that somebody made in a console; no file can have that name.
                    continue
                changed = item["LastModified"].timestamp()
                key = item["Key"].removeprefix(self._prefix)
                yield ObjectInfo(key, item["Size"], item["ETag"].strip('"'), changed)

    def folders(self, prefix: str) -> builtins.list[str]:
        """The names, in order, that keys have after `prefix` and before their next slash."""
        with self._failures():
            found = patiently(self._wire.patience, lambda: list(self._pages(self._prefix + prefix, Delimiter="/")))
        names = [item["Prefix"] for page in found for item in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(self._prefix + prefix).rstrip("/") for name in names)

    def read(self, key: str) -> bytes | None:
        """A small object's content, or None where it is not there."""

        def get() -> bytes:
            answer = self._wire.client.get_object(Bucket=self._wire.bucket, Key=self._prefix + key)
            with closing(answer["Body"]) as body:
                return cast(bytes, body.read())

        with self._failures():
            try:
                return patiently(self._wire.patience, get)
            except boto.ClientError as error:
                if error_code(error) in ("NoSuchKey", "404"):
                    return None
                raise

    def write(self, key: str, body: bytes, *, only_new: bool = False) -> None:
        """Puts a small object. `only_new`: leaves what is there alone, on servers that can."""
        digest = base64.b64encode(md5(body)).decode()
        request = {"Key": self._prefix + key, "Body": body, "ContentMD5": digest, **self._wire.extra}
        with self._failures():
            if not only_new:
                self._wire.call("put_object", **request)
                return
            try:
                self._wire.call("put_object", **request, IfNoneMatch="*")
            except boto.ClientError as error:
                # Another writer was first. 304: MinIO's word for it, of some years. A 409 that may pass was waited for.
                if http_status(error) in (304, 409, 412) and not is_busy(error):
                    return
                if http_status(error) != 501:
                    raise
                self._wire.call("put_object", **request)

    def upload(self, files: Mapping[str, Path], moved: Moved | None = None) -> dict[str, Transferred]:
        """Sends each file to its key, and says by key what was sent."""
        with self._failures():
            sent = Sending(self._wire, moved).send({self._prefix + key: path for key, path in files.items()})
        return {key: sent[self._prefix + key] for key in files}

    def recognise(self, there: ObjectInfo, path: Path) -> Transferred | None:
        """The file's size and sha256, where the listed object's ETag is one that S3 gives to this content."""
        return same_content(path, there.tag) if path.stat().st_size == there.size else None

    def download(self, files: Mapping[str, Path], moved: Moved | None = None) -> dict[str, Transferred]:
        """Fetches each key into its file, whose folder is made, and says by key what came.

        Raises MissingObjectError.
        """
        with self._failures():
            came = Fetching(self._wire, moved).fetch({self._prefix + key: path for key, path in files.items()})
        return {key: came[self._prefix + key] for key in files}

    def hashes(self, keys: Sequence[str], moved: Moved | None = None) -> dict[str, Transferred]:
        """Reads each object to its end, keeps nothing, and says by key what came. Raises MissingObjectError."""
        with self._failures():
            came = hash_objects(self._wire, [self._prefix + key for key in keys], moved)
        return {key: came[self._prefix + key] for key in keys}

    def delete(self, keys: Sequence[str]) -> None:
        """Takes objects away, in this order; one that is not there is no error."""
        with self._failures():
            for key in keys:
                self._wire.call("delete_object", Key=self._prefix + key)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except GoneError as error:
            raise MissingObjectError(error.key.removeprefix(self._prefix)) from error
        except UnlikeSentError as error:
            raise unlike_sent(self._place, error.key, error.sent, error.shown) from error
        except (boto.ClientError, boto.BotoCoreError, *BROKEN) as error:
            raise failure_of(error, self._place, self._connection.storage) from error
