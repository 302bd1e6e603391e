"""Pushing an artifact to a hub that speaks the endpoints that huggingface_hub uses."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from finetune_api.publishing import PublishTarget
from finetune_api.stage import Artifact, ExitCode, JobRef, Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.hub_push import MANIFEST, push
from finetune_trainer.store import ArtifactStore

from .test_store import KEY, manifest

TOKEN = "hf_writer"
JOB = JobRef(namespace="team", name="tones", uid="u", generation=3)


@dataclass
class Repository:
    """A repository's branches, each its files by name, and the commits' messages."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[str] = field(default_factory=list)


class Hub(ThreadingHTTPServer):
    """Repositories by id, and large files by sha256."""

    repositories: dict[str, Repository]
    large: dict[str, bytes]
    down = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if self.server.down:
            self._say(503, {})
        elif parts[0] == "lfs":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            self.server.large[parts[1]] = body
            self._say(200, {})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say(401, {"error": "Invalid username or password."})
        else:
            self._authorized(parts, body)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815

    def _authorized(self, parts: list[str], body: bytes) -> None:
        match parts:
            case ["api", "repos", "create"]:
                wanted = json.loads(body)
                name = f"{wanted['organization']}/{wanted['name']}"
                there = name in self.server.repositories
                self.server.repositories.setdefault(name, Repository(wanted["visibility"] == "private"))
                self._say(409 if there else 200, {"url": f"{self.server.url}/{name}"})
            case ["api", "models", team, name, "branch", *branch]:
                self.server.repositories[f"{team}/{name}"].branches.setdefault("/".join(branch), {})
                self._say(200, {})
            case ["api", "models", team, name, "preupload", _]:
                files = [
                    {
                        "path": item["path"],
                        "uploadMode": "lfs" if item["size"] > 500 else "regular",
                        "shouldIgnore": False,
                    }
                    for item in json.loads(body)["files"]
                ]
                self._say(200, {"files": files})
            case [team, name, "info", "lfs", "objects", "batch"]:
                objects = [
                    {**item, "actions": {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}}}
                    for item in json.loads(body)["objects"]
                ]
                self._say(200, {"transfer": "basic", "objects": objects})
            case ["api", "models", team, name, "commit", branch]:
                self._commit(f"{team}/{name}", branch, body)
            case [team, name, "resolve", branch, *path]:
                self._file(self.server.repositories[f"{team}/{name}"].branches.get(branch, {}), "/".join(path))
            case ["api", "models", team, name, *_]:
                self._say(200, {"id": f"{team}/{name}", "sha": "0" * 40, "siblings": []})
            case _:
                self._say(404, {"error": f"no such endpoint: {self.path}"})

    def _commit(self, name: str, branch: str, body: bytes) -> None:
        repository = self.server.repositories[name]
        for line in body.splitlines():
            said = json.loads(line)
            value: dict[str, Any] = said["value"]
            if said["key"] == "header":
                repository.commits.append(value["summary"])
            elif said["key"] == "file":
                repository.branches[branch][value["path"]] = base64.b64decode(value["content"])
            elif said["key"] == "lfsFile":
                repository.branches[branch][value["path"]] = self.server.large[value["oid"]]
        commit = f"{self.server.url}/{name}/commit/{'1' * 40}"
        self._say(200, {"commitUrl": commit, "commitOid": "1" * 40, "pullRequestUrl": None})

    def _file(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        tag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
        self._send(200, files[path], {"ETag": tag, "X-Repo-Commit": "1" * 40})

    def _say(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.repositories, server.large = {}, {}
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def published(tmp_path: Path) -> tuple[ArtifactStore, Artifact]:
    """An artifact of two files, a small and a large one."""
    store = ArtifactStore(FolderObjects(tmp_path / "store"), "file://store")
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "deep" / "config.json").write_text("{}")
    committed = store.commit(manifest(store.upload(KEY, "one", folder)))
    return store, Artifact(name="model", stage="lora", key=KEY, digest=committed.digest, attempt="one")


def target(**fields: Any) -> PublishTarget:
    reference = {"name": "hub", "key": "token"}
    return PublishTarget.model_validate({"name": "hub", "repoId": "team/tones", "tokenSecretRef": reference, **fields})


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.mark.parametrize("branch", ["main", "runs"])
def test_the_artifacts_files_are_there_in_one_commit(
    hub: Hub, published: Any, token: Path, tmp_path: Path, branch: str
) -> None:
    store, artifact = published
    assert push(store, artifact, target(branch=branch), token, JOB, tmp_path / "scratch")
    repository = hub.repositories["team/tones"]
    files = repository.branches[branch]
    assert files["model.safetensors"] == bytes(range(256)) * 100
    assert files["deep/config.json"] == b"{}"
    assert hashlib.sha256(files[MANIFEST]).hexdigest() == artifact.digest
    assert repository.commits == ["team/tones, generation 3: model"]
    assert repository.private


def test_what_is_there_is_not_pushed_again(hub: Hub, published: Any, token: Path, tmp_path: Path) -> None:
    store, artifact = published
    assert push(store, artifact, target(private=False), token, JOB, tmp_path / "a")
    assert push(store, artifact, target(private=False), token, JOB, tmp_path / "b") is None
    assert len(hub.repositories["team/tones"].commits) == 1
    assert not hub.repositories["team/tones"].private


def test_a_token_that_may_not_write(hub: Hub, published: Any, token: Path, tmp_path: Path) -> None:
    token.write_text("hf_reader")
    with pytest.raises(StageFailure) as caught:
        push(*published, target(), token, JOB, tmp_path / "scratch")
    assert (caught.value.reason, caught.value.exit_code) == (Reason.ACCESS_DENIED, ExitCode.BAD_INPUT)
    assert caught.value.problems[0].path == "spec.publishTargets[name=hub].tokenSecretRef"
    assert "hf_reader" not in str(caught.value)


def test_a_hub_that_does_not_answer(
    hub: Hub, published: Any, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.down = True
    with pytest.raises(StageFailure) as caught:
        push(*published, target(), token, JOB, tmp_path / "scratch")
    assert (caught.value.reason, caught.value.exit_code) == (Reason.HUB_UNAVAILABLE, ExitCode.INFRASTRUCTURE)
    assert "503" in str(caught.value)


def test_a_hub_that_was_not_reached_is_not_one_without_the_artifact(
    hub: Hub, published: Any, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", unreached)
    with pytest.raises(StageFailure) as caught:
        push(*published, target(), token, JOB, tmp_path / "scratch")
    assert caught.value.reason is Reason.HUB_UNAVAILABLE
    assert not hub.repositories["team/tones"].commits


def test_another_artifact_than_was_published_is_not_pushed(
    hub: Hub, published: Any, token: Path, tmp_path: Path
) -> None:
    store, artifact = published
    with pytest.raises(StageFailure) as caught:
        push(store, artifact.model_copy(update={"digest": "0" * 64}), target(), token, JOB, tmp_path / "scratch")
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT
    assert not hub.repositories
