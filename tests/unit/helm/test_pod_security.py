"""Every pod of ours passes the Pod Security Standards' `restricted` profile, as its page lists the controls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest

from .chart import VALUES, Body, of_kind, render
from .pods import stage_objects

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SECCOMP = ("RuntimeDefault", "Localhost")


def violations(pod: Body) -> list[str]:
    """Controls of `restricted`, and of `baseline` below it, that a pod's spec breaks."""
    return [*_of_the_pod(pod), *(f"{item['name']}: {said}" for item in _containers(pod) for said in _of(item, pod))]


def _containers(pod: Body) -> list[Body]:
    return [*pod["containers"], *pod.get("initContainers", []), *pod.get("ephemeralContainers", [])]


def _of_the_pod(pod: Body) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {sorted(kinds)}"
    yield from _of_context(pod.get("securityContext", {}))


def _of_context(context: Body) -> Iterator[str]:
    if context.get("sysctls"):
        yield "sysctls"
    if context.get("seLinuxOptions"):
        yield "seLinuxOptions"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    if context.get("runAsUser") == 0:
        yield "runAsUser 0"
    if context.get("procMount", "Default") != "Default":
        yield "procMount"
    if context.get("privileged"):
        yield "privileged"


def _of(container: Body, pod: Body) -> Iterator[str]:
    context, above = container.get("securityContext", {}), pod.get("securityContext", {})
    yield from _of_context(context)
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if not context.get("runAsNonRoot", above.get("runAsNonRoot")):
        yield "runAsNonRoot"
    if context.get("seccompProfile", above.get("seccompProfile", {})).get("type") not in SECCOMP:
        yield "seccompProfile"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"


def stage_pods() -> list[Body]:
    """Specs of the stages' pods."""
    return [job["spec"]["template"]["spec"] for job in of_kind(stage_objects(), "Job")]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_operator_is_restricted(values: Body) -> None:
    (deployment,) = of_kind(render(values), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert violations(pod) == []
    assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in pod["containers"])
    assert pod["securityContext"]["runAsUser"] == 65532


def test_stages_are_restricted_and_get_no_token() -> None:
    pods = stage_pods()
    assert len(pods) >= 10
    for pod in pods:
        assert violations(pod) == []
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in pod["containers"])


def _set(*path: str | int, value: object) -> Callable[[Body], None]:
    def change(pod: Body) -> None:
        here = pod
        for step in path[:-1]:
            here = here[step]  # type: ignore[index]  # a path through lists and dicts
        here[path[-1]] = value  # type: ignore[index]  # the same

    return change


CONTEXT = ("containers", 0, "securityContext")
LOOSENED: dict[str, Callable[[Body], None]] = {
    "hostNetwork": _set("hostNetwork", value=True),
    "volume": _set("volumes", value=[{"name": "host", "hostPath": {"path": "/"}}]),
    "runAsNonRoot": _set("securityContext", "runAsNonRoot", value=False),
    "seccompProfile": _set("securityContext", "seccompProfile", value={"type": "Unconfined"}),
    "privileged": _set(*CONTEXT, "privileged", value=True),
    "allowPrivilegeEscalation": _set(*CONTEXT, "allowPrivilegeEscalation", value=True),
    "capabilities": _set(*CONTEXT, "capabilities", value={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    "runAsUser 0": _set(*CONTEXT, "runAsUser", value=0),
    "hostPort": _set("containers", 0, "ports", value=[{"containerPort": 1, "hostPort": 1}]),
}


@pytest.mark.parametrize("control", LOOSENED)
def test_the_check_can_fail(control: str) -> None:
    pod = copy.deepcopy(stage_pods()[0])
    LOOSENED[control](pod)
    assert any(control in said for said in violations(pod))
