"""An HTTP proxy before an S3 server that breaks some of what goes through it, by a seed."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# What is done to a request, or to its answer.
FAULTS = (
    "reset before",  # the server never hears of it
    "reset after",  # the server has done it, and the client never hears of that
    "500",
    "503",
    "SlowDown",
    "truncate",  # the answer's body ends in its middle
    "stall",  # no answer for longer than the client waits
    "stall midway",
    "garble answer",  # one byte is another
    "garble request",
)
_STATUS = {"500": (500, "InternalError"), "503": (503, "ServiceUnavailable"), "SlowDown": (503, "SlowDown")}
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_UPSTREAM_SECONDS = 3.0


class Faults:
    """Decides by a seed which request meets which fault, until `limit` of them are spent; counts them."""

    def __init__(self, seed: int, share: float, limit: int) -> None:
        self._random = random.Random(seed)
        self._share, self._limit = share, limit
        self._lock = threading.Lock()
        self.done: Counter[str] = Counter()

    def next(self, size_of_body: int) -> tuple[str | None, float]:
        """The fault for a request with a body of this size, if any, and where in a body it strikes (0 to 1)."""
        with self._lock:
            if self.done.total() >= self._limit or self._random.random() >= self._share:
                return None, 0.0
            fault = self._random.choice(FAULTS if size_of_body else FAULTS[:-1])
            self.done[fault] += 1
            return fault, self._random.random()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        server: _Server = self.server  # type: ignore[assignment]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault, place = server.faults.next(len(body))
        if fault == "reset before":
            self._reset()
        elif fault in _STATUS:
            self._refuse(*_STATUS[fault])
        else:
            self._pass_on(fault, place, garbled(body, place) if fault == "garble request" else body)

    def _pass_on(self, fault: str | None, place: float, body: bytes) -> None:
        """Asks the server, and answers with what it says, more or less."""
        server: _Server = self.server  # type: ignore[assignment]
        try:
            status, headers, content = self._forward(server.upstream, body)
        except OSError:
            self._reset()
            return
        if fault == "stall":
            time.sleep(server.stall_seconds)
        if fault in ("reset after", "stall"):
            self._reset()
            return
        cut = int(len(content) * place) if fault in ("truncate", "stall midway") else None
        self._answer(status, headers, garbled(content, place) if fault == "garble answer" else content, cut)
        if fault == "stall midway":
            time.sleep(server.stall_seconds)
        if cut is not None:
            self._reset()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815

    def _forward(self, upstream: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        # The client signed the Host that it knows; the server must be told the same.
        connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=_UPSTREAM_SECONDS)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, answer.getheaders(), content
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: int | None) -> None:
        self.send_response(status)
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(content)))
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if cut is None else content[:cut])
        self.wfile.flush()

    def _refuse(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a fault</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml")], text, None)

    def _reset(self) -> None:
        """Ends the connection at once: a closed socket that must not linger says RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with suppress(OSError):
            self.connection.close()

    def handle(self) -> None:
        """As the base class does, but a connection that is gone is no error here."""
        with suppress(OSError, ValueError):
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    upstream: str
    faults: Faults
    stall_seconds: float

    def handle_error(self, *_: Any) -> None:
        """A connection that this proxy broke itself is no news."""

    def shutdown_request(self, request: Any) -> None:
        """As the base class does, but a connection may be closed already."""
        with suppress(OSError):
            super().shutdown_request(request)


def garbled(content: bytes, place: float) -> bytes:
    """`content` with one bit of one byte turned."""
    if not content:
        return content
    at = int(len(content) * place)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@contextmanager
def faulty(upstream: str, faults: Faults, stall_seconds: float) -> Iterator[str]:
    """The URL of a proxy before `upstream`, while the context lasts. A stall lasts `stall_seconds`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.upstream, server.faults, server.stall_seconds = upstream, faults, stall_seconds
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
