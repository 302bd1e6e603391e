"""Pods and pod templates: defaults, validation, what may change, graceful deletion."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from finetune_local.apiserver.errors import (
    Cause,
    duplicate_value,
    forbidden_value,
    invalid_value,
    required,
    unsupported_value,
)
from finetune_local.apiserver.objects import Object, clone, lookup
from finetune_local.apiserver.strategies.amounts import resource_causes
from finetune_local.apiserver.strategies.base import BuiltinStrategy
from finetune_local.apiserver.strategies.volumes import volume_causes

if TYPE_CHECKING:
    from finetune_local.apiserver.resources import Resource

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MODES = ("secret", "configMap", "projected", "downwardAPI")
_DEFAULT_MODE = 0o644
_FINISHED = ("Succeeded", "Failed")
_UPDATABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_ENUMS = {
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
}


def default_template(spec: Object) -> None:
    """Defaults of a pod spec, wherever it stands."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        _default_container(container)
    for volume in spec.get("volumes", ()):
        for source in _MODES:
            if isinstance(volume.get(source), dict):
                volume[source].setdefault("defaultMode", _DEFAULT_MODE)


def _default_container(container: Object) -> None:
    image = container.get("image", "")
    tag = image.rpartition("/")[2].partition(":")[2]
    floating = "@" not in image and tag in ("", "latest")
    container.setdefault("imagePullPolicy", "Always" if floating else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    if resources.get("limits"):
        resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
    for variable in container.get("env", ()):
        source = lookup(variable, "valueFrom", "fieldRef")
        if source is not None:
            source.setdefault("apiVersion", "v1")


def template_causes(spec: Object, path: str) -> list[Cause]:
    """What is wrong with a pod spec beyond its types."""
    causes: list[Cause] = []
    if not spec.get("containers"):
        causes.append(required(f"{path}.containers"))
    policy = spec.get("restartPolicy")
    if policy not in ("Always", "OnFailure", "Never"):
        causes.append(unsupported_value(f"{path}.restartPolicy", policy, ("Always", "OnFailure", "Never")))
    volumes: set[str] = set()
    for index, volume in enumerate(spec.get("volumes", ())):
        causes += _name_causes(volume.get("name", ""), f"{path}.volumes[{index}].name", volumes)
        causes += volume_causes(volume, f"{path}.volumes[{index}]")
    names: set[str] = set()
    for member in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(member, ())):
            place = f"{path}.{member}[{index}]"
            causes += _name_causes(container.get("name", ""), f"{place}.name", names)
            causes += _container_causes(container, place, volumes)
    return causes


def _name_causes(name: str, path: str, seen: set[str]) -> list[Cause]:
    if not name:
        return [required(path)]
    if not _LABEL.fullmatch(name):
        text = (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
            "and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        )
        return [invalid_value(path, name, text)]
    if name in seen:
        return [duplicate_value(path, name)]
    seen.add(name)
    return []


def _container_causes(container: Object, path: str, volumes: set[str]) -> list[Cause]:
    causes: list[Cause] = []
    if not container.get("image"):
        causes.append(required(f"{path}.image"))
    for member, allowed in _ENUMS.items():
        if container.get(member, allowed[0]) not in allowed:
            causes.append(unsupported_value(f"{path}.{member}", container[member], allowed))
    for index, variable in enumerate(container.get("env", ())):
        place = f"{path}.env[{index}]"
        if not variable.get("name"):
            causes.append(required(f"{place}.name"))
        if variable.get("value") and variable.get("valueFrom"):
            text = "may not be specified when `value` is not empty"
            causes.append(invalid_value(f"{place}.valueFrom", "", text))
    causes += resource_causes(container, path)
    paths: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts", ())):
        place = f"{path}.volumeMounts[{index}]"
        if mount.get("name") not in volumes:
            causes.append(Cause("FieldValueNotFound", f"{place}.name", f'Not found: "{mount.get("name", "")}"'))
        if mount.get("mountPath") in paths:
            causes.append(invalid_value(f"{place}.mountPath", mount["mountPath"], "must be unique"))
        if ":" in mount.get("mountPath", ""):
            causes.append(invalid_value(f"{place}.mountPath", mount["mountPath"], "must not contain ':'"))
        paths.add(mount.get("mountPath", ""))
    return causes


class PodStrategy(BuiltinStrategy):
    returns_deleted: ClassVar[bool] = True

    def prepare_create(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("serviceAccountName", "default")
        default_template(spec)
        spec.setdefault("enableServiceLinks", True)
        spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
        spec.setdefault("priority", 0)
        obj["status"] = {"phase": "Pending", "qosClass": _qos_class(spec)}

    def prepare_update(self, new: Object, old: Object) -> None:
        default_template(new.setdefault("spec", {}))

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(resource, new, old)
        if causes:
            return causes
        if old is not None and new["spec"] != old["spec"] and _fixed(new["spec"]) != _fixed(old["spec"]):
            causes.append(forbidden_value("spec", _UPDATABLE))
        return causes or template_causes(new["spec"], "spec")

    def grace_seconds(self, obj: Object, requested: int | None) -> int:
        if not obj["spec"].get("nodeName") or lookup(obj, "status", "phase") in _FINISHED:
            return 0
        own = obj["spec"].get("terminationGracePeriodSeconds", 30)
        return max(0, own if requested is None else requested)


def _qos_class(spec: Object) -> str:
    resources = [container.get("resources", {}) for container in spec.get("containers", ())]
    if not any(r.get("limits") or r.get("requests") for r in resources):
        return "BestEffort"
    guaranteed = all(
        {"cpu", "memory"} <= set(r.get("limits", {})) and r.get("requests", {}) == r["limits"] for r in resources
    )
    return "Guaranteed" if guaranteed else "Burstable"


def _fixed(spec: Object) -> Any:
    """The part of a pod's spec that no update may change."""
    fixed = clone(spec)
    for member in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"):
        fixed.pop(member, None)
    for container in (*fixed.get("initContainers", ()), *fixed.get("containers", ())):
        container.pop("image", None)
    return fixed
