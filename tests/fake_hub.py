"""A stand-in for a Hugging Face hub: the endpoints that pushing an artifact needs, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_writer_of_the_tests"


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
    named: str
    down = False
    # What is asked for, by method and path.
    asked: list[tuple[str, str]]

    @property
    def url(self) -> str:
        return f"http://{self.named}:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.server.asked.append((self.command, self.path))
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
            case ["api", "validate-yaml"]:
                errors = _faults(json.loads(body)["content"])
                self._say(400 if errors else 200, {"errors": errors, "warnings": []})
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
            case ["api", "models", team, name, "tree", branch, *_]:
                files = self.server.repositories[f"{team}/{name}"].branches[branch]
                self._say(200, [{"type": "file", "path": path, "oid": "0", "size": 1} for path in sorted(files)])
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
            elif said["key"] == "deletedFile":
                del repository.branches[branch][value["path"]]
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


def _faults(card: str) -> list[dict[str, str]]:
    """What the hub refuses of a model card: a base model that is no model's id."""
    base = re.search(r"^base_model: *[\"']?([^\"'\n]+)", card.split("\n---", maxsplit=1)[0], re.MULTILINE)
    if base is None or re.fullmatch(r"[-.\w]+/[-.\w]+", base[1]):
        return []
    return [{"message": f'"base_model" with value "{base[1]}" is not valid. Use a model id from https://hf.co/models.'}]


@contextmanager
def serving(host: str = "127.0.0.1", named: str = "") -> Iterator[Hub]:
    """A hub without repositories at an address of this machine; `named`: the host by which its clients know it."""
    server = Hub((host, 0), Handler)
    server.repositories, server.large, server.asked = {}, {}, []
    server.named = named or host
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
