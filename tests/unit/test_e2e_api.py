"""The end-to-end tests' client: whose certificates it trusts, and what it does about what is there already."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from ..e2e.api import Api

SERVER = "https://127.0.0.1:6443"
CERTIFICATES = b"the cluster's own"


class Noted(HTTPAdapter):
    """Sends nothing; keeps what would have been sent, and what the server would have been checked with."""

    def __init__(self) -> None:
        super().__init__()
        self.verify: Any = None
        self.sent: list[tuple[str | None, str | None, Any]] = []

    def send(self, request: requests.PreparedRequest, *_: Any, verify: Any = None, **__: Any) -> requests.Response:
        self.verify = verify
        self.sent.append((request.method, request.url, json.loads(request.body or "null")))
        answer = requests.Response()
        answer.status_code, answer.request = 409 if request.method == "POST" else 200, request
        answer._content = b"{}"
        return answer


def connected(folder: Path, **cluster: Any) -> tuple[Api, Noted]:
    """A client of `cluster`, to which everything is there already."""
    path = folder / "kubeconfig"
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "own",
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
        "clusters": [{"name": "own", "cluster": {"server": SERVER, **cluster}}],
        "users": [{"name": "own", "user": {"token": "none"}}],
    }
    path.write_text(json.dumps(body))
    api, noted = Api(path), Noted()
    api._session.mount("https://", noted)
    return api, noted


def asked(folder: Path, **cluster: Any) -> Any:
    """What one request to `cluster` is checked with."""
    api, noted = connected(folder, **cluster)
    assert api.request("GET", "/version").status_code == 200
    return noted.verify


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_clusters_certificates_win_over_the_environments(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "/etc/ssl/certs/ca-certificates.crt")
    data = base64.b64encode(CERTIFICATES).decode()
    assert Path(asked(tmp_path, **{"certificate-authority-data": data})).read_bytes() == CERTIFICATES
    assert asked(tmp_path, **{"insecure-skip-tls-verify": True}) is False


def test_what_is_there_already_stays_unless_it_is_to_be_renewed(tmp_path: Path) -> None:
    body = {"metadata": {"name": "a"}, "spec": {"group": "finetune.dev"}}
    api, noted = connected(tmp_path)
    api.ensure("/things", body)
    assert noted.sent == [("POST", f"{SERVER}/things", body)]
    api.ensure("/things", body, renew=True)
    assert noted.sent[2:] == [("PATCH", f"{SERVER}/things/a", {"spec": body["spec"]})]
