"""Transfers: bounded memory, resumed streams, progress, and errors that may pass told from those that will not."""

from __future__ import annotations

import io
import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import ProtocolError

from finetune_api.stage import ExitCode, Reason
from finetune_trainer import s3_fetching, s3_sending, s3_wire
from finetune_trainer.errors import StageFailure
from finetune_trainer.report import Reporter
from finetune_trainer.s3 import QUICK, connect
from finetune_trainer.s3_errors import Place
from finetune_trainer.s3_retries import Patience, TruncatedError, is_transient, patiently
from finetune_trainer.s3_wire import HELD_PARTS, part_size
from finetune_trainer.watching import watched


def client_error(status: int, code: str) -> boto.ClientError:
    return boto.ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (client_error(500, "InternalError"), True),
        (client_error(503, "SlowDown"), True),
        (client_error(501, "NotImplemented"), False),
        (client_error(429, "TooManyRequests"), True),
        (client_error(400, "BadDigest"), True),
        (client_error(400, "RequestTimeout"), True),
        (client_error(403, "AccessDenied"), False),
        (client_error(404, "NoSuchKey"), False),
        (client_error(412, "PreconditionFailed"), False),
        (boto.EndpointConnectionError(endpoint_url="u"), True),
        (boto.ReadTimeoutError(endpoint_url="u"), True),
        (boto.ConnectionClosedError(endpoint_url="u"), True),
        (boto.ResponseStreamingError(error="e"), True),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), True),
        (ProtocolError("reset"), True),
        (ResponseParserError("no XML"), True),
        (TruncatedError("short"), True),
        (boto.SSLError(endpoint_url="u", error="e"), False),
        (boto.NoCredentialsError(), False),
        (ValueError("ours"), False),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, Exception) else str(item),
)
def test_what_may_pass_by_itself(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_pauses_grow_at_random_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pauses, bounds = [0.0], [], []
    monkeypatch.setattr("finetune_trainer.s3_retries.time.monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("finetune_trainer.s3_retries.time.sleep", sleep)
    monkeypatch.setattr("finetune_trainer.s3_retries.random.uniform", lambda low, high: bounds.append(high) or high / 2)

    def always() -> None:
        raise client_error(503, "SlowDown")

    with pytest.raises(boto.ClientError):
        patiently(Patience(1, 1, 1, seconds=60), always)
    assert bounds[:7] == [0.5, 1, 2, 4, 8, 16, 20]
    assert 40 < sum(pauses) <= 60


@pytest.mark.parametrize("size", [0, 1, 8 << 20, (8 << 20) * 10_000, (8 << 20) * 10_000 + 1, 5 << 40])
def test_s3_takes_so_many_parts(size: int) -> None:
    assert -(-size // part_size(size)) <= 10_000
    assert part_size(size) % (1 << 20) == 0


@pytest.fixture
def objects(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Objects in a bucket, with small parts."""
    for module in (s3_wire, s3_sending):
        monkeypatch.setattr(module, "PART", 1 << 20)
    for module in (s3_wire, s3_fetching):
        monkeypatch.setattr(module, "RANGE", 3 << 20)
    uri = f"s3://{s3.bucket('transfers')}/{tmp_path.name}"
    return connect(s3.storage(uri), s3.credentials(tmp_path / "secret"), QUICK).objects(Place("p", uri, None))  # type: ignore[arg-type]


def files(folder: Path, *sizes: int) -> dict[str, Path]:
    found = {}
    for number, size in enumerate(sizes):
        path = folder / f"file-{number}"
        path.write_bytes(random.Random(number).randbytes(size))
        found[f"key-{number}"] = path
    return found


def test_many_large_files_at_once_come_and_go(objects: Any, tmp_path: Path) -> None:
    """More of them than there are threads, which boto3's own transfers did not survive."""
    sent = files(tmp_path, *[7 << 20] * 10, 0, 1, (3 << 20), (3 << 20) + 1)
    moved: list[int] = []
    assert {key: item.size for key, item in objects.upload(sent, moved.append).items()} == {
        key: path.stat().st_size for key, path in sent.items()
    }
    assert sum(moved) == sum(path.stat().st_size for path in sent.values())
    came = objects.download({key: tmp_path / "back" / key for key in sent})
    assert all((tmp_path / "back" / key).read_bytes() == path.read_bytes() for key, path in sent.items())
    assert came == objects.hashes(list(sent))


def test_only_so_many_parts_are_in_memory(objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, most = [0], [0]
    send = s3_sending.Sending._submit

    def counted(self: Any, task: Any, amount: int) -> None:
        def run() -> None:
            task()
            held[0] -= 1

        send(self, run, amount)
        held[0] += 1
        most[0] = max(most[0], held[0])

    monkeypatch.setattr(s3_sending.Sending, "_submit", counted)
    objects.upload(files(tmp_path, 60 << 20))
    assert 1 < most[0] <= HELD_PARTS + 1


def test_large_parts_take_the_room_of_several(objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more than 80 GiB have larger parts; what is held of them at a time is the same."""
    monkeypatch.setattr(s3_wire, "_MOST_PARTS", 15)
    put, lock = objects._wire.client.upload_part, threading.Lock()
    held, most = [0], [0]

    def counted(**request: Any) -> Any:
        with lock:
            held[0] += len(request["Body"])
            most[0] = max(most[0], held[0])
        try:
            return put(**request)
        finally:
            with lock:
                held[0] -= len(request["Body"])

    monkeypatch.setattr(objects._wire.client, "upload_part", counted)
    sent = files(tmp_path, 60 << 20, 3 << 20)
    objects.upload(sent)
    assert 4 << 20 <= most[0] <= HELD_PARTS << 20
    assert objects.hashes(["key-0"])["key-0"].size == 60 << 20


def test_what_was_completed_is_found_though_the_answer_was_lost(
    objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = files(tmp_path, 3 << 20)
    complete = objects._wire.client.complete_multipart_upload

    def lost(**request: Any) -> Any:
        complete(**request)
        raise client_error(404, "NoSuchUpload")

    monkeypatch.setattr(objects._wire.client, "complete_multipart_upload", lost)
    assert objects.upload(sent) == objects.hashes(["key-0"])


@pytest.mark.parametrize("older", [True, False])
def test_an_older_object_is_not_taken_for_what_was_sent(
    objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    """The upload is gone, as after a bucket's rule took it away, and another object of that size is there."""
    if older:
        (tmp_path / "older").write_bytes(b"o" * (3 << 20))
        objects.upload({"key-0": tmp_path / "older"})

    def gone(**_: Any) -> Any:
        raise client_error(404, "NoSuchUpload")

    monkeypatch.setattr(objects._wire.client, "complete_multipart_upload", gone)
    with pytest.raises(StageFailure, match=r"lost an upload \(NoSuchUpload\).*key-0") as caught:
        objects.upload(files(tmp_path, 3 << 20))
    assert (caught.value.reason, caught.value.exit_code) == (Reason.STORE_UNAVAILABLE, ExitCode.INFRASTRUCTURE)


@pytest.mark.parametrize(("there", "shown"), [(2 << 20, str(2 << 20)), (0, "no such object")])
def test_what_the_store_then_shows_is_looked_at(
    objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, shown: str
) -> None:
    if there:
        objects.upload(files(tmp_path, there))
    monkeypatch.setattr(objects._wire.client, "complete_multipart_upload", lambda **_: {})
    with pytest.raises(StageFailure, match=f"key-0: {3 << 20} bytes were sent, the store shows {shown}") as caught:
        objects.upload(files(tmp_path, 3 << 20))
    assert caught.value.reason is Reason.STORE_UNAVAILABLE


def test_an_abort_that_breaks_too_does_not_hide_why(
    objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**_: Any) -> Any:
        raise client_error(403, "AccessDenied")

    def broken(**_: Any) -> Any:
        raise ResponseParserError("no XML")

    monkeypatch.setattr(objects._wire.client, "upload_part", denied)
    monkeypatch.setattr(objects._wire.client, "abort_multipart_upload", broken)
    with pytest.raises(StageFailure, match=r"does not allow .*AccessDenied.*key-0"):
        objects.upload(files(tmp_path, 3 << 20))


def test_a_file_is_completed_while_the_next_one_is_sent(
    objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that put the parts together only then take long for it; nobody else waits meanwhile."""
    complete, put, second = objects._wire.client.complete_multipart_upload, objects._wire.client.upload_part, []

    def waiting(**request: Any) -> Any:
        if request["Key"].endswith("key-0"):
            assert arrived.wait(10)
        return complete(**request)

    def counted(**request: Any) -> Any:
        answer = put(**request)
        if request["Key"].endswith("key-1"):
            second.append(request["PartNumber"])
            if len(second) == 20:
                arrived.set()
        return answer

    arrived = threading.Event()
    monkeypatch.setattr(objects._wire.client, "complete_multipart_upload", waiting)
    monkeypatch.setattr(objects._wire.client, "upload_part", counted)
    objects.upload(files(tmp_path, 3 << 20, 20 << 20))
    assert len(second) == 20


def test_only_so_many_files_are_open(objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model or data set of thousands of files would meet the limit of a process's open files."""
    sent = files(tmp_path, *[5000] * 60, 7 << 20, 10 << 20)
    objects.upload(sent)
    opened, most = set(), [0]
    really_open, really_close = os.open, os.close

    def counted(path: Any, *more: Any, **named: Any) -> int:
        found = really_open(path, *more, **named)
        if "back" in str(path):
            opened.add(found)
            most[0] = max(most[0], len(opened))
        return found

    monkeypatch.setattr(s3_fetching.os, "open", counted)
    monkeypatch.setattr(s3_fetching.os, "close", lambda file: (opened.discard(file), really_close(file)))
    objects.download({key: tmp_path / "back" / key for key in sent})
    assert all((tmp_path / "back" / key).read_bytes() == path.read_bytes() for key, path in sent.items())
    assert 1 < most[0] <= s3_wire.WORKERS
    assert not opened


def test_a_stream_goes_on_where_it_broke(objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = files(tmp_path, 2 << 20)
    objects.upload(sent)
    client, asked = objects._wire.client, []
    get = client.get_object

    class Breaking(io.RawIOBase):
        def __init__(self, body: Any) -> None:
            self.body, self.left = body, 2

        def read(self, amount: int = -1) -> bytes:
            self.left -= 1
            if self.left < 0 and len(asked) < 3:
                raise boto.ResponseStreamingError(error="reset")
            return self.body.read(min(amount, 300_000))

    def breaking(**request: Any) -> Any:
        asked.append(request["Range"])
        answer = get(**request)
        return {**answer, "Body": Breaking(answer["Body"])}

    monkeypatch.setattr(client, "get_object", breaking)
    monkeypatch.setattr("finetune_trainer.s3_retries.time.sleep", lambda _: None)
    objects.download({"key-0": tmp_path / "back"})
    assert (tmp_path / "back").read_bytes() == sent["key-0"].read_bytes()
    assert asked == ["bytes=0-3145727", "bytes=600000-3145727", "bytes=1200000-3145727"]


def test_bytes_from_elsewhere_are_not_taken_for_the_rest(
    objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a server, or a proxy before it, that knows no ranges."""
    objects.upload(files(tmp_path, 4 << 20))
    get = objects._wire.client.get_object

    def whole(**request: Any) -> Any:
        if not request.pop("Range").startswith("bytes=0-"):
            return get(**request)
        return get(**request, Range="bytes=0-3145727")

    monkeypatch.setattr(objects._wire.client, "get_object", whole)
    with pytest.raises(StageFailure, match="other bytes than those from 3145728 on"):
        objects.download({"key-0": tmp_path / "back"})


def test_long_transfers_say_how_far_they_are() -> None:
    stream = io.StringIO()
    moved = watched(Reporter(stream), "publishing", interval=0)(4 << 30)
    assert moved is not None
    moved(1 << 30)
    said = json.loads(stream.getvalue())
    assert said["activity"].startswith("publishing 1.0 of 4.0 GiB, ")
    assert said["etaSeconds"] >= 0


def test_an_empty_file_that_took_long_says_nothing() -> None:
    stream = io.StringIO()
    moved = watched(Reporter(stream), "publishing", interval=0)(0)
    assert moved is not None
    moved(0)
    assert stream.getvalue() == ""


def test_a_failure_ends_what_else_is_fetched(objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' rest is not waited for, and the failure that is raised is the one that came first."""
    objects.upload(files(tmp_path, 2 << 20, 1))
    get, failed = objects._wire.client.get_object, threading.Event()

    class Endless(io.RawIOBase):
        def read(self, amount: int = -1) -> bytes:
            assert failed.wait(10)
            return b"x" * amount

    def answer(**request: Any) -> Any:
        if request["Key"].endswith("key-1"):
            failed.set()
            raise client_error(403, "AccessDenied")
        return {**get(**request), "Body": Endless()}

    monkeypatch.setattr(objects._wire.client, "get_object", answer)
    for fetch in (
        lambda: objects.download({f"key-{n}": tmp_path / f"back-{n}" for n in (0, 1)}),
        lambda: objects.hashes(["key-0", "key-1"]),
    ):
        failed.clear()
        with pytest.raises(StageFailure, match="AccessDenied"):
            fetch()


def test_short_ones_say_nothing() -> None:
    stream = io.StringIO()
    moved = watched(Reporter(stream), "publishing")(1000)
    assert moved is not None
    moved(1000)
    assert stream.getvalue() == ""
