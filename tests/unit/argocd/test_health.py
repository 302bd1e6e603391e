"""The Lua health check, run by Lua 5.1 (Argo CD's dialect) on statuses that the operator writes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51

from finetune_api import GROUP, KIND
from finetune_api.status import Phase, StageState, StageStatus, Status
from finetune_operator.conditions import RunState, summarise

from ..api.specs import job_spec
from ..operator.world import World

DEPLOY = Path(__file__).parents[3] / "deploy/argocd"
SCRIPT = (DEPLOY / "health.lua").read_text()
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def health(body: dict[str, Any]) -> tuple[str, str]:
    """Status and message that Argo CD would show; only the libraries that it opens are there."""
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    lua.execute("io, debug, package, require, dofile, loadfile = nil")
    lua.globals().obj = lua.table_from(body, recursive=True)
    found = lua.execute(SCRIPT)
    return found.status, found.message


def a_job(phase: Phase, *, generation: int = 2, observed: int = 2, **fields: Any) -> dict[str, Any]:
    """A FinetuneJob whose status is the operator's own for that phase."""
    state = RunState(phase=phase, reason="Reason", message="So it is.", **fields)
    status = summarise(state, observed, Status(), NOW).wire()
    return {"metadata": {"name": "x", "generation": generation}, "spec": {}, "status": status}


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.PENDING, "Progressing"),
        (Phase.QUEUED, "Progressing"),
        (Phase.RUNNING, "Progressing"),
        (Phase.SUCCEEDED, "Healthy"),
        (Phase.FAILED, "Degraded"),
        (Phase.SUSPENDED, "Suspended"),
    ],
)
def test_each_phase(phase: Phase, expected: str) -> None:
    assert health(a_job(phase)) == (expected, "So it is.")


def test_every_phase_is_covered() -> None:
    assert len(Phase) == 6


def test_an_invalid_spec_is_degraded() -> None:
    assert health(a_job(Phase.FAILED, spec_valid=False))[0] == "Degraded"


@pytest.mark.parametrize("status", [None, {}, {"observedGeneration": 1}])
def test_before_the_operator_has_seen_it(status: dict[str, Any] | None) -> None:
    body: dict[str, Any] = {"metadata": {"generation": 1}}
    if status is not None:
        body["status"] = status
    assert health(body) == ("Progressing", "Waiting for the operator")


@pytest.mark.parametrize("phase", Phase)
def test_a_status_about_an_older_generation_says_nothing(phase: Phase) -> None:
    found, message = health(a_job(phase, generation=3, observed=2))
    assert found == "Progressing"
    assert "latest change" in message


def test_a_running_stage_says_how_far_it_is() -> None:
    stage = StageStatus(name="lora", type="LoRA", state=StageState.RUNNING)
    assert health(a_job(Phase.RUNNING, stage=stage, stages=[stage])) == ("Progressing", "lora: 0/1")


def test_along_a_whole_run() -> None:
    world = World(job_spec())
    seen = [health(world.body())[0]]
    while world.status.get("phase") != "Succeeded":
        world.step()
        seen.append(health(world.body())[0])
        for name in world.unfinished():
            world.complete(name)
    assert set(seen[:-1]) == {"Progressing"}
    assert seen[-1] == "Healthy"
    world.edit(job_spec(suspend=True, runId="again"))
    assert health(world.body())[0] == "Progressing"
    world.step()
    assert health(world.body())[0] == "Suspended"


def test_the_config_map_carries_the_same_script() -> None:
    data = yaml.safe_load((DEPLOY / "argocd-cm.yaml").read_text())["data"]
    assert data == {f"resource.customizations.health.{GROUP}_{KIND}": SCRIPT}
