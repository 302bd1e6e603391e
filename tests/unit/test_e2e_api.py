"""The end-to-end tests' client: it trusts the kubeconfig's certificates, whatever the environment says."""

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
    """Sends nothing; keeps what a request would have been checked with."""

    def __init__(self) -> None:
        super().__init__()
        self.verify: Any = None

    def send(self, request: requests.PreparedRequest, *_: Any, verify: Any = None, **__: Any) -> requests.Response:
        self.verify = verify
        answer = requests.Response()
        answer.status_code, answer.request = 200, request
        return answer


def asked(folder: Path, cluster: dict[str, Any]) -> Any:
    """What one request to `cluster` is checked with."""
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
    assert api.request("GET", "/version").status_code == 200
    return noted.verify


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_clusters_certificates_win_over_the_environments(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "/etc/ssl/certs/ca-certificates.crt")
    data = base64.b64encode(CERTIFICATES).decode()
    assert Path(asked(tmp_path, {"certificate-authority-data": data})).read_bytes() == CERTIFICATES
    assert asked(tmp_path, {"insecure-skip-tls-verify": True}) is False
