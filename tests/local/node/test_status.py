"""A pod's phase and conditions from its containers' states."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_local.node.container import Container
from finetune_local.node.status import PodState, pod_status

NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=UTC)
RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-11-23T20:00:00Z"}}


def ended(code: int) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}


def make(*states: dict[str, Any], init: tuple[dict[str, Any], ...] = (), done: bool = False) -> PodState:
    def container(state: dict[str, Any]) -> Container:
        return Container({"name": "c"}, state=state, started=0 if "waiting" in state else 1)

    return PodState([container(item) for item in states], [container(item) for item in init], NOW, "1.2.3.4", done)


WAITING: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        (make(WAITING), "Pending"),
        (make(WAITING, init=(RUNNING,)), "Pending"),
        (make(RUNNING), "Running"),
        (make(RUNNING, ended(1)), "Running"),
        (make(ended(0), done=True), "Succeeded"),
        (make(ended(0), ended(3), done=True), "Failed"),
        (make(WAITING, init=(ended(2),), done=True), "Failed"),
        (make(WAITING, done=True), "Failed"),
    ],
)
def test_phase(state: PodState, phase: str) -> None:
    assert pod_status(state, {}, NOW)["phase"] == phase


def test_conditions_keep_their_time_until_they_change() -> None:
    first = pod_status(make(RUNNING), {}, NOW)
    later = pod_status(make(ended(0), done=True), first, NOW + timedelta(seconds=5))
    times = {item["type"]: (item["status"], item["lastTransitionTime"]) for item in later["conditions"]}
    assert times["Initialized"] == ("True", "2026-11-23T20:00:00Z")
    assert times["Ready"] == ("False", "2026-11-23T20:00:05Z")


def test_waiting_for_init_containers_is_said() -> None:
    status = pod_status(make(WAITING, init=(RUNNING,)), {}, NOW)
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
    assert {item["type"]: item["status"] for item in status["conditions"]}["Initialized"] == "False"


def test_a_pods_own_failure_outweighs_its_containers() -> None:
    state = make(ended(0), done=True)
    state.fail("DeadlineExceeded", "too long")
    status = pod_status(state, {}, NOW)
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "DeadlineExceeded", "too long")
