"""Argo CD's health check of a FinetuneJob, run as Argo CD runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lupa import lua51

from finetune_api.status import Phase

DEPLOY = Path(__file__).parents[1] / "deploy/argocd"
SCRIPT = (DEPLOY / "health.lua").read_text()
EXPECTED = {
    Phase.PENDING: "Progressing",
    Phase.QUEUED: "Progressing",
    Phase.RUNNING: "Progressing",
    Phase.SUCCEEDED: "Healthy",
    Phase.FAILED: "Degraded",
    Phase.SUSPENDED: "Suspended",
}


def health(body: dict[str, Any]) -> tuple[str, str]:
    """Status and message that Argo CD would show, by Lua 5.1 with the libraries that it opens."""
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    lua.execute("io, debug, package, require, dofile, loadfile = nil")
    lua.globals().obj = lua.table_from(body, recursive=True)
    found = lua.execute(SCRIPT)
    return found.status, found.message


def expected(body: dict[str, Any]) -> str:
    """The health that a FinetuneJob's status should have, by its phase."""
    status = body.get("status") or {}
    if not status.get("conditions") or status["observedGeneration"] < body["metadata"]["generation"]:
        return "Progressing"
    return EXPECTED[Phase(status["phase"])]
