"""Hub models, against a hub of our own on loopback."""

from __future__ import annotations

import errno
import hashlib
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

from finetune_api.model import InputModel
from finetune_api.stage import ExitCode, Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.model_check import check_model
from finetune_trainer.model_source import open_model
from finetune_trainer.s3 import connect
from finetune_trainer.sources import Sources

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_good"


class Hub(ThreadingHTTPServer):
    """One repository, acme/tiny, whose files are those of `folder`; `gated` needs TOKEN for files."""

    folder: Path
    gated = False

    def info(self) -> dict[str, object]:
        """What the hub says about a commit."""
        siblings = [
            {
                "rfilename": name,
                "size": size,
                "blobId": blob,
                **({"lfs": {"sha256": lfs, "size": size, "pointerSize": 134}} if lfs else {}),
            }
            for name, size, blob, lfs in self.files()
        ]
        return {"id": "acme/tiny", "sha": COMMIT, "siblings": siblings}

    def tree(self) -> list[dict[str, object]]:
        """What the hub says about a commit's files."""
        return [
            {
                "type": "file",
                "path": name,
                "size": size,
                "oid": blob,
                **({"lfs": {"oid": lfs, "size": size, "pointerSize": 134}} if lfs else {}),
            }
            for name, size, blob, lfs in self.files()
        ]

    def files(self) -> Iterator[tuple[str, int, str, str | None]]:
        """Name, size, git's blob id and, for large files, sha256."""
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            body = path.read_bytes()
            large = hashlib.sha256(body).hexdigest() if path.suffix in (".safetensors", ".parquet") else None
            yield path.relative_to(self.folder).as_posix(), len(body), hashlib.sha1(body).hexdigest(), large


class Handler(BaseHTTPRequestHandler):
    """The few routes that models and data sets are read by."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "api" and parts[1] in ("models", "datasets"):
            self._api(parts[2:])
        else:
            self._file(parts)

    do_HEAD = do_GET  # noqa: N815  (the name is http.server's)

    def _api(self, parts: list[str]) -> None:
        if parts[:2] != ["acme", "tiny"]:
            self._say(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif parts[2:] and parts[3] not in ("main", COMMIT):
            self._say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            content = self.server.tree() if parts[2] == "tree" else self.server.info()
            self._say(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, parts: list[str]) -> None:
        path = self.server.folder.joinpath(*parts[parts.index("resolve") + 2 :])
        if self.server.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif not path.is_file():
            self._say(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            body = path.read_bytes()
            self._say(200, body, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(tiny_model, monkeypatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.folder = tiny_model
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def sources(s3, tmp_path) -> Sources:
    return Sources(connect(s3.storage("s3://any-bucket"), s3.credentials(tmp_path / "secret")), tmp_path / "scratch")


def model(**fields: str) -> InputModel:
    return InputModel.model_validate({"modelPath": "acme/tiny", **fields})


def failure(sources: Sources, wanted: InputModel) -> StageFailure:
    with pytest.raises(StageFailure) as caught:
        check_model(wanted, open_model(wanted, sources))
    return caught.value


def test_a_revision_is_pinned_to_its_commit(hub, sources, tmp_path):
    checked = check_model(model(), open_model(model(), sources))
    assert checked.pin.revision == COMMIT
    assert checked.pin.architecture == "Phi3ForCausalLM"
    assert not (tmp_path / "scratch/base/model.safetensors").exists()
    folder = open_model(model(), sources, revision=COMMIT).fetch(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()


def test_a_model_that_is_not_there(hub, sources):
    found = failure(sources, model(modelPath="acme/other"))
    assert (found.reason, found.exit_code) == (Reason.MODEL_NOT_FOUND, ExitCode.BAD_INPUT)
    assert "tokenSecretRef" in found.problems[0].remedy


def test_a_revision_that_is_not_there(hub, sources):
    found = failure(sources, model(revision="v9"))
    assert (found.reason, found.problems[0].path) == (Reason.MODEL_NOT_FOUND, "spec.inputModel.revision")


def test_a_gate_needs_a_token(hub, sources, tmp_path):
    hub.gated = True
    found = failure(sources, model())
    assert (found.reason, found.exit_code) == (Reason.MODEL_GATED, ExitCode.BAD_INPUT)
    assert found.problems[0].path == "spec.inputModel.tokenSecretRef"
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    with_token = Sources(sources.connection, sources.scratch, hub_token=token)
    assert check_model(model(), open_model(model(), with_token)).pin.revision == COMMIT


def test_no_hub(hub, sources, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        found = failure(sources, model())
    assert (found.reason, found.exit_code) == (Reason.HUB_UNAVAILABLE, ExitCode.INFRASTRUCTURE)


def test_offline(hub, sources, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert failure(sources, model()).reason is Reason.HUB_UNAVAILABLE


def test_a_full_disk_is_not_the_hubs_fault(hub, sources, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.HfApi.snapshot_download", full)
    with pytest.raises(OSError, match="No space left"):
        open_model(InputModel(model_path="acme/tiny"), sources).fetch(["config.json"])
