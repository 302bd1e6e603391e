"""What S3 servers, and proxies before them, answer when they do not do as they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from finetune_api.stage import ExitCode, Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.s3 import QUICK, Patience, connect
from finetune_trainer.s3_errors import Place
from finetune_trainer.store import ArtifactStore

from .test_store import failure_of


class _Scripted(BaseHTTPRequestHandler):
    """Answers with what `server.script` says, then with 200: statuses, or statuses with S3's code and headers."""

    # HTTP/1.0 has no answer to boto3's "Expect: 100-continue", which then waits a second.
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.headers.get("If-None-Match"))  # type: ignore[attr-defined]
        script = self.server.script  # type: ignore[attr-defined]
        said = script.pop(0) if script else 200
        status, code, headers = said if isinstance(said, tuple) else (said, "", {})
        body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode() if code else b""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def scripted() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Scripted)
    server.script, server.seen = [], []  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def scripted_store(s3, tmp_path, server) -> ArtifactStore:
    storage = s3.storage("s3://store-test").model_copy(update={"endpoint": f"http://127.0.0.1:{server.server_port}"})
    return ArtifactStore.on(connect(storage, s3.credentials(tmp_path), QUICK))


def test_a_store_that_answers_5xx_is_asked_again(s3, tmp_path, scripted):
    scripted.script = [503, 500]
    scripted_store(s3, tmp_path, scripted).write_document("x", b"{}")
    assert len(scripted.seen) == 3


def test_a_store_that_answers_only_5xx_is_given_up(s3, tmp_path, scripted):
    scripted.script = [503] * 20
    failure = failure_of(scripted_store(s3, tmp_path, scripted))
    assert (failure.reason, failure.exit_code) == (Reason.STORE_UNAVAILABLE, ExitCode.INFRASTRUCTURE)
    assert len(scripted.seen) == QUICK.attempts


def test_a_denied_write_names_the_right(s3, tmp_path, scripted):
    scripted.script = [403]
    failure = failure_of(scripted_store(s3, tmp_path, scripted))
    assert (failure.reason, failure.exit_code) == (Reason.ACCESS_DENIED, ExitCode.BAD_INPUT)
    assert failure.problems[0].path == "spec.storage.uri"


CONFLICT = (409, "ConditionalRequestConflict", {})


@pytest.mark.parametrize(
    ("script", "sent"),
    [
        ([412], ["*"]),
        ([304], ["*"]),
        ([409], ["*"]),
        ([501], ["*", None]),
        # Nobody was first yet: AWS asks for another try.
        ([CONFLICT, 412], ["*", "*"]),
        ([CONFLICT, CONFLICT], ["*", "*", "*"]),
        ([(408, "", {})], ["*", "*"]),
        ([(429, "", {}), (409, "OperationAborted", {})], ["*", "*", "*"]),
    ],
)
def test_conditional_writes(s3, tmp_path, scripted, monkeypatch, script, sent):
    monkeypatch.setattr("finetune_trainer.s3_retries.time.sleep", lambda _: None)
    scripted.script = script
    storage = s3.storage("s3://store-test").model_copy(update={"endpoint": f"http://127.0.0.1:{scripted.server_port}"})
    connection = connect(storage, s3.credentials(tmp_path), Patience(1, 2, 5, seconds=20))
    connection.objects(Place("p", "s3://store-test", Reason.BUCKET_NOT_FOUND)).write("x", b"{}", only_new=True)
    assert scripted.seen == sent


@pytest.mark.parametrize(
    ("answer", "reason", "path", "words"),
    [
        (
            CONFLICT,
            Reason.STORE_UNAVAILABLE,
            "spec.storage.endpoint",
            "ConditionalRequestConflict again and again, at x",
        ),
        ((403, "QuotaExceeded", {}), Reason.STORE_UNAVAILABLE, "spec.storage.endpoint", "the store is full"),
        ((507, "XMinioStorageFull", {}), Reason.STORE_UNAVAILABLE, "spec.storage.endpoint", "the store is full"),
        ((403, "RequestTimeTooSkewed", {}), Reason.STORE_UNAVAILABLE, "spec.storage.endpoint", "Set the clock"),
        ((503, "SlowDown", {}), Reason.STORE_UNAVAILABLE, "spec.storage.endpoint", "SlowDown again and again, at x"),
        # From http to https, as a proxy says it: it is the URL that is wrong, not the region.
        (
            (301, "", {"Location": "https://s3.example.com/"}),
            Reason.BUCKET_NOT_FOUND,
            "spec.storage.endpoint",
            "to https://s3.example.com/",
        ),
        ((308, "", {}), Reason.BUCKET_NOT_FOUND, "spec.storage.endpoint", "Give the URL of the S3 server itself"),
        (
            (301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-3"}),
            Reason.BUCKET_NOT_FOUND,
            "spec.storage.region",
            "Name the bucket's region, eu-west-3.",
        ),
        (
            (400, "AuthorizationHeaderMalformed", {}),
            Reason.BUCKET_NOT_FOUND,
            "spec.storage.region",
            "Name the bucket's region.",
        ),
    ],
    ids=lambda item: str(item[0]) if isinstance(item, tuple) else None,
)
def test_what_s3_says_and_what_it_means(s3, tmp_path, scripted, answer, reason, path, words):
    scripted.script = [answer] * 20
    storage = s3.storage("s3://store-test").model_copy(update={"endpoint": f"http://127.0.0.1:{scripted.server_port}"})
    connection = connect(storage, s3.credentials(tmp_path), Patience(1, 2, 5, seconds=0))
    with pytest.raises(StageFailure) as caught:
        connection.objects(Place("p", "s3://store-test", Reason.BUCKET_NOT_FOUND)).write("x", b"{}", only_new=True)
    (problem,) = caught.value.problems
    assert (caught.value.reason, problem.path) == (reason, path)
    assert words in str(problem)
    assert caught.value.exit_code == (
        ExitCode.INFRASTRUCTURE if reason is Reason.STORE_UNAVAILABLE else ExitCode.BAD_INPUT
    )
