"""A pod's status from its containers' states, as a kubelet reports it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from finetune_local.client import Object
from finetune_local.node.container import Container
from finetune_operator.times import rfc3339


@dataclass
class PodState:
    """All that a pod's status says. `ended`: nothing will be started any more; `reason`, `message`: why it failed."""

    containers: Sequence[Container]
    init_containers: Sequence[Container]
    started_at: datetime
    address: str
    ended: bool = False
    reason: str = ""
    message: str = ""

    def fail(self, reason: str, message: str) -> None:
        """The pod has failed as a whole, whatever its containers say."""
        self.reason, self.message = reason, message


def pod_status(state: PodState, previous: Object, now: datetime) -> Object:
    """The pod's status; conditions that did not change keep their time from `previous`."""
    phase = _phase(state)
    over = phase in ("Succeeded", "Failed")
    initialized = all(container.exit_code == 0 for container in state.init_containers)
    ready = not over and all("running" in container.state for container in state.containers)
    conditions = _conditions(phase, initialized=initialized, ready=ready)
    known = {condition["type"]: condition for condition in previous.get("conditions", [])}
    status: Object = {
        "phase": phase,
        "conditions": [_with_time(condition, known.get(condition["type"]), now) for condition in conditions],
        "hostIP": state.address,
        "hostIPs": [{"ip": state.address}],
        "podIP": state.address,
        "podIPs": [{"ip": state.address}],
        "startTime": rfc3339(state.started_at),
        "containerStatuses": [_container_status(item, initialized=initialized) for item in state.containers],
    }
    if state.init_containers:
        status["initContainerStatuses"] = [_init_status(item) for item in state.init_containers]
    if state.reason:
        status["reason"], status["message"] = state.reason, state.message
    return status


def _phase(state: PodState) -> str:
    if state.reason:
        return "Failed"
    everything = [*state.init_containers, *state.containers]
    codes = [container.exit_code for container in everything]
    if state.ended:
        # Whatever never came to run did not succeed.
        return "Succeeded" if all(code == 0 for code in codes) else "Failed"
    if any(container.exit_code != 0 for container in state.init_containers):
        return "Pending"
    if all(container.started == 0 for container in state.containers):
        return "Pending"
    return "Running"


def _conditions(phase: str, *, initialized: bool, ready: bool) -> list[Object]:
    if phase in ("Succeeded", "Failed"):
        why = {"reason": "PodCompleted" if phase == "Succeeded" else "PodFailed"}
    else:
        why = {"reason": "ContainersNotReady"}
    shown = {} if ready else why
    value = "True" if ready else "False"
    return [
        {"type": "PodReadyToStartContainers", "status": "False" if phase in ("Succeeded", "Failed") else "True"},
        {"type": "Initialized", "status": "True"}
        if initialized
        else {"type": "Initialized", "status": "False", "reason": "ContainersNotInitialized"},
        {"type": "Ready", "status": value, **shown},
        {"type": "ContainersReady", "status": value, **shown},
        {"type": "PodScheduled", "status": "True"},
    ]


def _with_time(condition: Object, known: Object | None, now: datetime) -> Object:
    since = rfc3339(now)
    if known is not None and known["status"] == condition["status"]:
        since = known.get("lastTransitionTime") or since
    return {**condition, "lastProbeTime": None, "lastTransitionTime": since}


def _container_status(container: Container, *, initialized: bool) -> Object:
    status = _init_status(container)
    if not initialized and status["state"].get("waiting", {}).get("reason") == "ContainerCreating":
        status["state"] = {"waiting": {"reason": "PodInitializing"}}
    status["ready"] = status["started"] = "running" in container.state
    return status


def _init_status(container: Container) -> Object:
    return {
        "name": container.name,
        "image": container.spec.get("image", ""),
        "imageID": "",
        "containerID": f"local://{container.launch.member}" if container.launch else "",
        "state": container.state,
        "lastState": container.last_state,
        "restartCount": container.restarts,
        "ready": container.exit_code == 0,
        "started": False,
    }
