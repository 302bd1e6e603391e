"""The Lua health check, run by Lua 5.1 (Argo CD's dialect) on statuses that the operator writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import GROUP, KIND
from finetune_api.status import Phase, StageState, StageStatus, Status
from finetune_operator.conditions import RunState, summarise

from ...argocd import DEPLOY, EXPECTED, SCRIPT, expected, health
from ..api.specs import job_spec
from ..operator.world import World

NOW = datetime(2026, 11, 23, tzinfo=UTC)
GOLDEN = Path(__file__).parents[2] / "golden/statuses"


def a_job(phase: Phase, *, generation: int = 2, observed: int = 2, **fields: Any) -> dict[str, Any]:
    """A FinetuneJob whose status is the operator's own for that phase."""
    state = RunState(phase=phase, reason="Reason", message="So it is.", **fields)
    status = summarise(state, observed, Status(), NOW).wire()
    return {"metadata": {"name": "x", "generation": generation}, "spec": {}, "status": status}


@pytest.mark.parametrize("phase", Phase)
def test_each_phase(phase: Phase) -> None:
    assert health(a_job(phase)) == (EXPECTED[phase], "So it is.")


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_what_end_to_end_tests_have_seen(path: Path) -> None:
    """Recorded by a run of tests/e2e with FINETUNE_E2E_RECORD; each file is named by its health."""
    body = json.loads(path.read_text())
    found, message = health(body)
    assert found == expected(body) == path.stem.partition("-")[0]
    assert message


def test_every_health_has_been_seen() -> None:
    assert {path.stem.partition("-")[0] for path in GOLDEN.glob("*.json")} == set(EXPECTED.values())


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
