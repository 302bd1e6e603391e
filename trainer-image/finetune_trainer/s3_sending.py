"""Files to S3 in parts, several at a time, hashed on the way; memory does not grow with the files.

A file that goes in parts is completed by the thread that sent its last part, while others send the next file's: servers
that put the parts together only then take long for it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from botocore import exceptions as boto

from finetune_trainer.objects import Moved, Transferred
from finetune_trainer.s3_errors import error_code, http_status
from finetune_trainer.s3_retries import BROKEN
from finetune_trainer.s3_wire import HELD_PARTS, PART, Pool, Wire, md5, part_size

# The metadata that tells which upload made an object.
_MARK = "finetune-upload"


class UnlikeSentError(Exception):
    """The store shows another size of an object than was sent, in bytes; None: it shows no such object."""

    def __init__(self, key: str, sent: int, shown: int | None) -> None:
        super().__init__(key, sent, shown)
        self.key, self.sent, self.shown = key, sent, shown


class Sending:
    """Sends files: each is read once, in order, by the caller's thread, which hashes it; threads send its parts."""

    def __init__(self, wire: Wire, moved: Moved | None = None) -> None:
        self._wire = wire
        self._moved = moved or (lambda amount: None)
        self._pool = Pool()
        self._room = threading.Semaphore(HELD_PARTS)

    def send(self, files: Mapping[str, Path]) -> dict[str, Transferred]:
        """What was sent, by key. Raises UnlikeSentError, and what botocore raises."""
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
        with path.open("rb") as file:
            if size <= PART:
                content = file.read()
                whole.update(content)
                self._submit(lambda: self._put(key, content), len(content))
                return Transferred(len(content), whole.hexdigest())
            upload = _Upload(self._wire, key)
            uploads.append(upload)
            amount = number = 0
            while content := file.read(part_size(size)):
                number += 1
                amount += len(content)
                upload.begun(number)
                self._submit(_bound(upload.send, number, content), len(content))
                whole.update(content)
            upload.all_begun(amount)
            self._pool.submit(upload.complete_if_all_sent)
        return Transferred(amount, whole.hexdigest())

    def _submit(self, task: Callable[[], None], amount: int) -> None:
        """Hands a part to the threads as soon as there is room for it in memory; a large one takes that of several."""
        room = max(1, min(HELD_PARTS, -(-amount // PART)))
        for _ in range(room):
            self._room.acquire()
        if self._pool.ended:
            self._pool.finish()

        def run() -> None:
            try:
                task()
                self._moved(amount)
            finally:
                self._room.release(room)

        self._pool.submit(run)

    def _put(self, key: str, content: bytes) -> None:
        digest = base64.b64encode(md5(content)).decode()
        self._wire.call("put_object", Key=key, Body=content, ContentMD5=digest, **self._wire.extra)


class _Upload:
    """A multipart upload; whoever sends its last part completes it."""

    def __init__(self, wire: Wire, key: str) -> None:
        self._wire, self._key, self._mark = wire, key, uuid4().hex
        answer = wire.call("create_multipart_upload", Key=key, Metadata={_MARK: self._mark}, **wire.extra)
        self._id = str(answer["UploadId"])
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        # By number: the ETag that the server gave to it, and its MD5.
        self._parts: dict[int, tuple[str, bytes]] = {}
        # In bytes, as soon as the file was read to its end.
        self._size: int | None = None
        self._completed = False

    def begun(self, number: int) -> None:
        """Part `number` is to be sent."""
        with self._lock:
            self._waiting.add(number)

    def all_begun(self, size: int) -> None:
        """There are no parts beyond those that were begun, which have `size` bytes."""
        with self._lock:
            self._size = size

    def send(self, number: int, content: bytes) -> None:
        """Sends a part; the server checks it against its MD5."""
        digest = md5(content)
        answer = self._wire.call(
            "upload_part",
            Key=self._key,
            UploadId=self._id,
            PartNumber=number,
            Body=content,
            ContentMD5=base64.b64encode(digest).decode(),
        )
        with self._lock:
            self._parts[number] = (answer["ETag"], digest)
            self._waiting.discard(number)
        self.complete_if_all_sent()

    def complete_if_all_sent(self) -> None:
        """Makes an object of the parts, once. Raises UnlikeSentError where the store shows another one then."""
        with self._lock:
            if self._size is None or self._waiting or self._completed:
                return
            self._completed = True
        sent = [self._parts[number] for number in sorted(self._parts)]
        parts = [{"PartNumber": number, "ETag": tag} for number, (tag, _) in enumerate(sent, 1)]
        try:
            answer = self._wire.call(
                "complete_multipart_upload", Key=self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
            )
        except boto.ClientError as error:
            # An earlier try may have come through, its answer lost; an object of that name may be an older one.
            if error_code(error) != "NoSuchUpload" or not self._is_marked(self._shown()):
                raise
        else:
            # Made of what was sent: nothing is left to be asked, and some servers read an object to answer that.
            if answer.get("ETag", "").strip('"') == tag_of_parts([digest for _, digest in sent]):
                return
        shown = self._shown().get("ContentLength")
        if shown != self._size:
            raise UnlikeSentError(self._key, self._size, shown)

    def _is_marked(self, head: dict[str, Any]) -> bool:
        # Some servers spell names of metadata as headers are spelt.
        return self._mark in [value for name, value in head.get("Metadata", {}).items() if name.lower() == _MARK]

    def _shown(self) -> dict[str, Any]:
        """What the store says of the object; empty where it has none."""
        try:
            head: dict[str, Any] = self._wire.call("head_object", Key=self._key)
        except boto.ClientError as error:
            if http_status(error) == 404:
                return {}
            raise
        return head

    def abort(self) -> None:
        """Frees what the server keeps of it; a server that does not answer keeps it, for `gc` or the bucket's rules."""
        with contextlib.suppress(boto.ClientError, boto.BotoCoreError, *BROKEN):
            self._wire.client.abort_multipart_upload(Bucket=self._wire.bucket, Key=self._key, UploadId=self._id)


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
    return Transferred(size, sha256.hexdigest()) if tag in (whole.hexdigest(), tag_of_parts(parts)) else None


def tag_of_parts(digests: Sequence[bytes]) -> str:
    """The ETag that S3 gives to an object that was sent in parts with these MD5s."""
    return f"{md5(b''.join(digests)).hex()}-{len(digests)}"
