"""Files to S3 in parts, several at a time, hashed on the way; memory does not grow with the files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from botocore import exceptions as boto

from finetune_trainer.objects import Moved, Transferred
from finetune_trainer.s3_errors import error_code
from finetune_trainer.s3_wire import HELD_PARTS, PART, Pool, Wire, md5, part_size


class Sending:
    """Sends files: each is read once, in order, by the caller's thread, which hashes it; threads send its parts."""

    def __init__(self, wire: Wire, moved: Moved | None = None) -> None:
        self._wire = wire
        self._moved = moved or (lambda amount: None)
        self._pool = Pool()
        self._room = threading.Semaphore(HELD_PARTS)

    def send(self, files: Mapping[str, Path]) -> dict[str, Transferred]:
        """What was sent, by key. Raises what botocore raises."""
        sent: dict[str, Transferred] = {}
        uploads: list[_Upload] = []
        try:
            for key, path in files.items():
                sent[key] = self._send_file(key, path, uploads)
            self._pool.finish()
        except BaseException:
            self._pool.close()
            for upload in uploads:
                upload.abort()
            raise
        return sent

    def _send_file(self, key: str, path: Path, uploads: list[_Upload]) -> Transferred:
        size = path.stat().st_size
        whole = hashlib.sha256()
        amount = 0
        with path.open("rb") as file:
            if size <= PART:
                content = file.read()
                whole.update(content)
                self._submit(lambda: self._put(key, content), len(content))
                return Transferred(len(content), whole.hexdigest())
            upload = _Upload(self._wire, key)
            uploads.append(upload)
            step = part_size(size)
            number = 0
            while content := file.read(step):
                number += 1
                amount += len(content)
                upload.begun(number)
                self._submit(_bound(upload.send, number, content), len(content))
                whole.update(content)
            upload.all_begun()
            self._pool.submit(upload.complete_if_all_sent)
        return Transferred(amount, whole.hexdigest())

    def _submit(self, task: Callable[[], None], amount: int) -> None:
        """Hands a part to the threads as soon as there is room for it in memory."""
        self._room.acquire()
        if self._pool.ended:
            self._pool.finish()

        def run() -> None:
            try:
                task()
                self._moved(amount)
            finally:
                self._room.release()

        self._pool.submit(run)

    def _put(self, key: str, content: bytes) -> None:
        self._wire.call("put_object", Key=key, Body=content, ContentMD5=_digest(content), **self._wire.extra)


class _Upload:
    """A multipart upload; whoever sends its last part completes it."""

    def __init__(self, wire: Wire, key: str) -> None:
        self._wire, self._key = wire, key
        answer = wire.call("create_multipart_upload", Key=key, **wire.extra)
        self._id = str(answer["UploadId"])
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        self._parts: dict[int, str] = {}
        self._whole = self._completed = False

    def begun(self, number: int) -> None:
        """Part `number` is to be sent."""
        with self._lock:
            self._waiting.add(number)

    def all_begun(self) -> None:
        """There are no parts beyond those that were begun."""
        with self._lock:
            self._whole = True

    def send(self, number: int, content: bytes) -> None:
        """Sends a part; the server checks it against its MD5."""
        answer = self._wire.call(
            "upload_part",
            Key=self._key,
            UploadId=self._id,
            PartNumber=number,
            Body=content,
            ContentMD5=_digest(content),
        )
        with self._lock:
            self._parts[number] = answer["ETag"]
            self._waiting.discard(number)
        self.complete_if_all_sent()

    def complete_if_all_sent(self) -> None:
        """Makes an object of the parts, once."""
        with self._lock:
            if not self._whole or self._waiting or self._completed:
                return
            self._completed = True
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in sorted(self._parts.items())]
        try:
            self._wire.call(
                "complete_multipart_upload", Key=self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
            )
        except boto.ClientError as error:
            if error_code(error) != "NoSuchUpload":
                raise
            # An earlier try may have come through, its answer lost.
            self._wire.call("head_object", Key=self._key)

    def abort(self) -> None:
        """Frees what the server keeps of it; a server that does not answer keeps it, for `gc` or the bucket's rules."""
        with contextlib.suppress(boto.ClientError, boto.BotoCoreError):
            self._wire.client.abort_multipart_upload(Bucket=self._wire.bucket, Key=self._key, UploadId=self._id)


def _digest(content: bytes) -> str:
    return base64.b64encode(md5(content)).decode()


def _bound(task: Callable[[int, bytes], None], number: int, content: bytes) -> Callable[[], None]:
    return lambda: task(number, content)


def same_content(path: Path, tag: str) -> Transferred | None:
    """A file's size and sha256, where `tag` is the ETag that S3 gives to its content; None where it is another.

    That is the content's MD5 or, of what went in parts, the MD5 of the parts' MD5s and their number. Where the server
    encrypts with keys of a KMS, tags are none of both, and nothing is recognised.
    """
    whole, parts, sha256, size = hashlib.md5(usedforsecurity=False), [], hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        while content := file.read(part_size(size)):
            whole.update(content)
            sha256.update(content)
            parts.append(md5(content))
    in_parts = f"{md5(b''.join(parts)).hex()}-{len(parts)}"
    return Transferred(size, sha256.hexdigest()) if tag in (whole.hexdigest(), in_parts) else None
