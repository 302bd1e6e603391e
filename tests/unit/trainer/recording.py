"""A server that answers as S3 and STS do, as far as these tests go, and remembers what it was asked."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

TLS = Path(__file__).parents[2] / "golden" / "tls"
KEYS = """\
<{0}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{0}Result><Credentials>
<AccessKeyId>{1}</AccessKeyId><SecretAccessKey>secret-of-{1}</SecretAccessKey>
<SessionToken>token-of-{1}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>
</Credentials></{0}Result></{0}Response>"""
REFUSED = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not you</Message></Error></ErrorResponse>"


@dataclass(frozen=True)
class Asked:
    """A request: its headers in lower case, and the form that it posted, if any."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    form: dict[str, str]

    @property
    def key_id(self) -> str:
        """The access key that signed it; empty where it is not signed."""
        return self.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]


@dataclass
class Recorder:
    """The server's URL, what it was asked, whether it gives roles, and how many bytes were put to each path."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    refuses: bool = False
    sizes: Counter[str] = field(default_factory=Counter)

    def of(self, action: str) -> list[Asked]:
        """The requests for roles of this kind."""
        return [item for item in self.asked if item.form.get("Action") == action]

    @property
    def puts(self) -> list[Asked]:
        """The requests that put something."""
        return [item for item in self.asked if item.method in ("PUT", "POST") and "Action" not in item.form]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        recorder: Recorder = self.server.recorder  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        is_form = "urlencoded" in self.headers.get("Content-Type", "")
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()} if is_form else {}
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(parts.query, keep_blank_values=True)
        recorder.asked.append(Asked(self.command, parts.path, query, headers, form))
        action = form.get("Action")
        if action and recorder.refuses:
            self._send(403, REFUSED)
        elif action:
            self._send(200, KEYS.format(action, "WEB" if "Web" in action else "ROLE"))
        elif "uploads" in query:
            self._send(200, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
        elif self.command == "POST":
            self._send(200, '<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>')
        else:
            recorder.sizes[parts.path] += len(body) if self.command == "PUT" else 0
            self._send(200, "", recorder.sizes[parts.path] if self.command == "HEAD" else 0)

    do_PUT = do_POST = do_GET = do_HEAD = _answer  # noqa: N815

    def _send(self, status: int, text: str, size: int = 0) -> None:
        self.send_response(status)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(size or len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def recording(*, tls: bool = False) -> Iterator[Recorder]:
    """The server, on a port of its own, until the context ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    recorder = Recorder(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}")
    server.recorder = recorder  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
