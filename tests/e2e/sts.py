"""A stand-in for a security token service: keys of the tests' storage for the token of a service account."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

ANSWER = """\
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
<Credentials><AccessKeyId>{0}</AccessKeyId><SecretAccessKey>{1}</SecretAccessKey><SessionToken>a-session</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


@dataclass
class TokenService:
    """Its address for pods, and the claims of every token that it was shown."""

    url: str
    keys: Mapping[str, str]
    claims: list[dict[str, Any]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        service: TokenService = self.server.service  # type: ignore[attr-defined]
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        payload = form["WebIdentityToken"][0].split(".")[1]
        service.claims.append(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))
        good = form["Action"] == ["AssumeRoleWithWebIdentity"]
        keys = (service.keys["AWS_ACCESS_KEY_ID"], service.keys["AWS_SECRET_ACCESS_KEY"])
        body = ANSWER.format(*keys).encode() if good else b"<ErrorResponse/>"
        self.send_response(200 if good else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def token_service(host: str, named: str, keys: Mapping[str, str]) -> Iterator[TokenService]:
    """The service on a port of `host`, which its clients call `named`; it gives everybody these keys."""
    server = ThreadingHTTPServer((host, 0), _Handler)
    service = TokenService(f"http://{named}:{server.server_port}", keys)
    server.service = service  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
