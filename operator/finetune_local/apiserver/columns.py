"""The columns of built-in kinds, as kubectl shows them on a real server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_local.apiserver.durations import age, between
from finetune_local.apiserver.objects import Object, condition, lookup
from finetune_local.apiserver.resources import Column


@dataclass(frozen=True, slots=True)
class Cells:
    """Columns after the name, and an object's cells in them."""

    columns: tuple[Column, ...]
    cells: Callable[[Object], list[Any]]


def _columns(*names: str, wide: tuple[str, ...] = ()) -> tuple[Column, ...]:
    return tuple(Column(name, "string", "", priority) for priority, group in enumerate((names, wide)) for name in group)


def _created(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _containers(spec: Object | None) -> tuple[str, str]:
    """Names and images of a template's containers."""
    containers = (spec or {}).get("containers") or []
    return ",".join(c["name"] for c in containers), ",".join(c.get("image", "") for c in containers)


def _labels_text(labels: dict[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or "<none>"


def _pod(obj: Object) -> list[Any]:
    status = obj.get("status") or {}
    containers = status.get("containerStatuses") or []
    ready = sum(bool(c.get("ready")) for c in containers)
    restarts = sum(c.get("restartCount", 0) for c in containers)
    gates = [gate["conditionType"] for gate in obj["spec"].get("readinessGates") or ()]
    passed = sum((condition(obj, gate) or {}).get("status") == "True" for gate in gates)
    return [
        f"{ready}/{len(obj['spec'].get('containers') or ())}",
        pod_reason(obj),
        str(restarts),
        _created(obj),
        status.get("podIP") or "<none>",
        obj["spec"].get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        f"{passed}/{len(gates)}" if gates else "<none>",
    ]


def pod_reason(obj: Object) -> str:
    """The STATUS column: the most telling reason among a pod and its containers."""
    status = obj.get("status") or {}
    reason = status.get("reason") or status.get("phase") or "Unknown"
    initialising = False
    statuses = status.get("initContainerStatuses") or []
    for index, container in enumerate(statuses):
        state = container.get("state") or {}
        ended = state.get("terminated")
        if ended and ended.get("exitCode") == 0:
            continue
        if ended:
            reason = f"Init:{ended.get('reason') or _exit_text(ended)}"
        elif lookup(state, "waiting", "reason") not in (None, "", "PodInitializing"):
            reason = f"Init:{state['waiting']['reason']}"
        else:
            reason = f"Init:{index}/{len(statuses)}"
        initialising = True
        break
    if not initialising:
        for container in reversed(status.get("containerStatuses") or []):
            state = container.get("state") or {}
            ended = state.get("terminated")
            waiting = lookup(state, "waiting", "reason")
            if waiting:
                reason = waiting
            elif ended:
                reason = ended.get("reason") or _exit_text(ended)
    if "deletionTimestamp" in obj["metadata"]:
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return reason


def _exit_text(ended: Object) -> str:
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode')}"


def _job(obj: Object) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    completions, parallelism = spec.get("completions"), spec.get("parallelism", 1)
    wanted = str(completions) if completions is not None else f"1 of {parallelism}" if parallelism > 1 else "1"
    names, images = _containers(lookup(spec, "template", "spec"))
    return [
        _job_state(obj),
        f"{status.get('succeeded', 0)}/{wanted}",
        between(status.get("startTime"), status.get("completionTime")),
        _created(obj),
        names,
        images,
        _labels_text(lookup(spec, "selector", "matchLabels")),
    ]


def _job_state(obj: Object) -> str:
    for kind, shown in (
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ):
        if (condition(obj, kind) or {}).get("status") == "True":
            return shown
    return "Terminating" if "deletionTimestamp" in obj["metadata"] else "Running"


def _event(obj: Object) -> list[Any]:
    about = obj.get("involvedObject") or {}
    last = lookup(obj, "series", "lastObservedTime") or obj.get("lastTimestamp") or obj.get("eventTime")
    source = obj.get("source") or {}
    parts = (source.get("component") or obj.get("reportingComponent"), source.get("host"))
    return [
        age(last or obj["metadata"].get("creationTimestamp")),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{about.get('kind', '').lower()}/{about.get('name', '')}",
        about.get("fieldPath", ""),
        ", ".join(filter(None, parts)),
        (obj.get("message") or "").strip(),
        age(obj.get("firstTimestamp") or obj.get("eventTime")),
        str(lookup(obj, "series", "count") or obj.get("count") or 1),
        obj["metadata"]["name"],
    ]


def _service(obj: Object) -> list[Any]:
    spec = obj["spec"]
    ports = [
        f"{p['port']}{':' + str(p['nodePort']) if p.get('nodePort') else ''}/{p.get('protocol', 'TCP')}"
        for p in spec.get("ports") or ()
    ]
    return [
        spec.get("type", "ClusterIP"),
        spec.get("clusterIP") or "<none>",
        ",".join(spec.get("externalIPs") or ()) or spec.get("externalName") or "<none>",
        ",".join(ports) or "<none>",
        _created(obj),
        _labels_text(spec.get("selector")),
    ]


def _node(obj: Object) -> list[Any]:
    ready = (condition(obj, "Ready") or {}).get("status")
    state = {"True": "Ready", "False": "NotReady"}.get(ready or "", "Unknown")
    if obj.get("spec", {}).get("unschedulable"):
        state += ",SchedulingDisabled"
    prefix = "node-role.kubernetes.io/"
    labels = obj["metadata"].get("labels") or {}
    roles = sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))
    info = lookup(obj, "status", "nodeInfo") or {}
    addresses = {a["type"]: a["address"] for a in lookup(obj, "status", "addresses") or ()}
    return [
        state,
        ",".join(roles) or "<none>",
        _created(obj),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", "<none>"),
        addresses.get("ExternalIP", "<none>"),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _workload(obj: Object) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    names, images = _containers(lookup(spec, "template", "spec"))
    return [
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}",
        str(status.get("updatedReplicas", 0)),
        str(status.get("availableReplicas", 0)),
        _created(obj),
        names,
        images,
        _labels_text(lookup(spec, "selector", "matchLabels")),
    ]


def _claim(obj: Object) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    short = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
    modes = status.get("accessModes") or spec.get("accessModes") or ()
    phase = "Terminating" if "deletionTimestamp" in obj["metadata"] else status.get("phase", "")
    return [
        phase,
        spec.get("volumeName", ""),
        lookup(status, "capacity", "storage") or "",
        ",".join(short.get(mode, mode) for mode in modes),
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName", "<unset>"),
        _created(obj),
        spec.get("volumeMode", ""),
    ]


def _subjects(obj: Object, kind: str) -> str:
    found = [s for s in obj.get("subjects") or () if s["kind"] == kind]
    return ", ".join("/".join(filter(None, (s.get("namespace"), s["name"]))) for s in found)


def _binding(obj: Object) -> list[Any]:
    subjects = [_subjects(obj, kind) for kind in ("User", "Group", "ServiceAccount")]
    return [f"{obj['roleRef']['kind']}/{obj['roleRef']['name']}", _created(obj), *subjects]


def _stamp(obj: Object) -> list[Any]:
    return [obj["metadata"].get("creationTimestamp", "")]


def _size(obj: Object) -> str:
    return str(len(obj.get("data") or ()) + len(obj.get("binaryData") or ()))


_BINDING = Cells(_columns("Role", "Age", wide=("Users", "Groups", "ServiceAccounts")), _binding)

COLUMNS: dict[str, Cells] = {
    "clusterrolebindings.rbac.authorization.k8s.io": _BINDING,
    "clusterroles.rbac.authorization.k8s.io": Cells(_columns("Created At"), _stamp),
    "configmaps": Cells(_columns("Data", "Age"), lambda obj: [_size(obj), _created(obj)]),
    "customresourcedefinitions.apiextensions.k8s.io": Cells(_columns("Created At"), _stamp),
    "deployments.apps": Cells(
        _columns(
            "Ready", "Up-to-date", "Available", "Age", wide=("Containers", "Images", "Selector")
        ),
        _workload,
    ),
    "events": Cells(
        (
            *_columns("Last Seen", "Type", "Reason", "Object"),
            *_columns(wide=("Subobject", "Source")),
            *_columns("Message"),
            *_columns(wide=("First Seen", "Count", "Name")),
        ),
        _event,
    ),
    "jobs.batch": Cells(
        _columns(
            "Status", "Completions", "Duration", "Age", wide=("Containers", "Images", "Selector")
        ),
        _job,
    ),
    "leases.coordination.k8s.io": Cells(
        _columns("Holder", "Age"),
        lambda obj: [lookup(obj, "spec", "holderIdentity") or "", _created(obj)],
    ),
    "namespaces": Cells(
        _columns("Status", "Age"), lambda obj: [lookup(obj, "status", "phase") or "", _created(obj)]
    ),
    "nodes": Cells(
        _columns(
            "Status", "Roles", "Age", "Version",
            wide=("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"),
        ),
        _node,
    ),
    "persistentvolumeclaims": Cells(
        _columns(
            "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age",
            wide=("VolumeMode",),
        ),
        _claim,
    ),
    "pods": Cells(
        _columns(
            "Ready", "Status", "Restarts", "Age", wide=("IP", "Node", "Nominated Node", "Readiness Gates")
        ),
        _pod,
    ),
    "rolebindings.rbac.authorization.k8s.io": _BINDING,
    "roles.rbac.authorization.k8s.io": Cells(_columns("Created At"), _stamp),
    "secrets": Cells(
        _columns("Type", "Data", "Age"), lambda obj: [obj.get("type", ""), _size(obj), _created(obj)]
    ),
    "serviceaccounts": Cells(
        _columns("Secrets", "Age"), lambda obj: [str(len(obj.get("secrets") or ())), _created(obj)]
    ),
    "services": Cells(
        _columns("Type", "Cluster-IP", "External-IP", "Port(s)", "Age", wide=("Selector",)), _service
    ),
}  # fmt: skip
