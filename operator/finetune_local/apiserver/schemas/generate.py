"""Makes `builtin.json` from the `kubernetes` client's models: `python -m finetune_local.apiserver.schemas.generate`.

The models hold names, types, required members and descriptions. What they do not hold, how lists are merged,
stands in the tables below; it is part of Kubernetes' API conventions (types.go, `patchMergeKey` and
`listMapKey`).
"""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

from finetune_local.apiserver.kinds import EXTRA_MODELS, KINDS
from finetune_local.apiserver.schemas.builtin import PATH, REF

_SCALARS: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string", "format": "date-time"},
    "bytes": {"type": "string", "format": "byte"},
    "bytearray": {"type": "string", "format": "byte"},
}
_QUANTITY = {"type": "string", "format": "quantity"}
_QUANTITIES = {
    "allocatable", "allocatedResources", "capacity", "default", "defaultRequest", "divisor", "hard", "limits",
    "max", "maxLimitRequestRatio", "min", "overhead", "podFixed", "requests", "sizeLimit", "used",
}  # fmt: skip

MERGE_KEYS = {
    ("ObjectMeta", "ownerReferences"): ("uid",),
    ("PodSpec", "containers"): ("name",),
    ("PodSpec", "ephemeralContainers"): ("name",),
    ("PodSpec", "hostAliases"): ("ip",),
    ("PodSpec", "imagePullSecrets"): ("name",),
    ("PodSpec", "initContainers"): ("name",),
    ("PodSpec", "resourceClaims"): ("name",),
    ("PodSpec", "schedulingGates"): ("name",),
    ("PodSpec", "topologySpreadConstraints"): ("topologyKey", "whenUnsatisfiable"),
    ("PodSpec", "volumes"): ("name",),
    ("Container", "env"): ("name",),
    ("Container", "ports"): ("containerPort", "protocol"),
    ("Container", "volumeDevices"): ("devicePath",),
    ("Container", "volumeMounts"): ("mountPath",),
    ("EphemeralContainer", "env"): ("name",),
    ("EphemeralContainer", "volumeMounts"): ("mountPath",),
    ("PodStatus", "conditions"): ("type",),
    ("PodStatus", "podIPs"): ("ip",),
    ("NamespaceStatus", "conditions"): ("type",),
    ("NodeStatus", "addresses"): ("type",),
    ("NodeStatus", "conditions"): ("type",),
    ("PersistentVolumeClaimStatus", "conditions"): ("type",),
    ("ServiceSpec", "ports"): ("port", "protocol"),
    ("ServiceStatus", "conditions"): ("type",),
    ("ServiceAccount", "secrets"): ("name",),
    ("DeploymentStatus", "conditions"): ("type",),
    ("ReplicaSetStatus", "conditions"): ("type",),
    ("StatefulSetStatus", "conditions"): ("type",),
    ("DaemonSetStatus", "conditions"): ("type",),
    ("PodDisruptionBudgetStatus", "conditions"): ("type",),
    ("CustomResourceDefinitionStatus", "conditions"): ("type",),
}
PATCH_ONLY = {("JobStatus", "conditions"): "type", ("ServiceAccount", "imagePullSecrets"): "name"}
"""Lists that a strategic merge patch merges, while server-side apply takes them as atomic."""
SETS = {("ObjectMeta", "finalizers"), ("NodeSpec", "podCIDRs")}
RETAIN_KEYS = {("PodSpec", "volumes"), ("PodSpec", "resourceClaims")}
ATOMIC = {
    "ConfigMapKeySelector", "LabelSelector", "LocalObjectReference", "NodeSelector", "NodeSelectorTerm",
    "ObjectFieldSelector", "ObjectReference", "OwnerReference", "ResourceFieldSelector", "RoleRef",
    "SecretKeySelector", "SecretReference", "Subject", "TypedLocalObjectReference",
}  # fmt: skip
DEFAULT_KEYS = {"protocol": "TCP"}
"""Members that identify a list's element even where they are left out: they have a default."""


def definition_name(model: str) -> str:
    """`V1PodSpec` -> `io.k8s.api.v1.PodSpec`, `CoreV1Event` -> `io.k8s.api.core.v1.Event`."""
    match = re.fullmatch(r"(.*?)(V\d+(?:(?:alpha|beta)\d+)?)(.+)", model)
    if match is None:
        raise ValueError(f"{model} is no name of a versioned model")
    group, version, name = match.groups()
    return ".".join(filter(None, ("io.k8s.api", group.lower(), version.lower(), name)))


def _model_class(name: str) -> Any:
    return getattr(importlib.import_module("kubernetes.client.models"), name)


class _Generator:
    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}

    def add(self, model: str) -> str:
        name = definition_name(model)
        if name not in self.definitions:
            self.definitions[name] = {}
            self.definitions[name] = self._definition(_model_class(model), name.rpartition(".")[2])
        return name

    def _definition(self, cls: Any, name: str) -> dict[str, Any]:
        properties = {}
        required = []
        fields = {info.serialization_alias or name: info for name, info in cls.model_fields.items()}
        for attribute, wire in cls.attribute_map.items():
            info = fields[wire]
            schema = self._type(cls.openapi_types[attribute], wire, info.annotation)
            schema |= self._merging(name, wire)
            if info.description:
                schema["description"] = info.description
            if wire in DEFAULT_KEYS and (name, wire) in {("ContainerPort", wire), ("ServicePort", wire)}:
                schema["default"] = DEFAULT_KEYS[wire]
            properties[wire] = schema
            if info.is_required():
                required.append(wire)
        definition: dict[str, Any] = {"type": "object", "properties": properties}
        summary = (cls.__doc__ or "").partition("Attributes:")[0].split()
        if summary:
            definition["description"] = " ".join(summary)
        if required:
            definition["required"] = sorted(required)
        if name in ATOMIC:
            definition["x-kubernetes-map-type"] = "atomic"
        return definition

    def _type(self, declared: str, wire: str, annotation: Any) -> dict[str, Any]:
        if match := re.fullmatch(r"List\[(.+)\]", declared):
            return {"type": "array", "items": self._type(match[1], wire, annotation)}
        if match := re.fullmatch(r"Dict\[str, (.+)\]", declared):
            return {"type": "object", "additionalProperties": self._type(match[1], wire, annotation)}
        if declared == "str" and wire in _QUANTITIES:
            return dict(_QUANTITY)
        if declared in _SCALARS:
            return dict(_SCALARS[declared])
        if declared == "object":
            text = str(annotation)
            mark = "int-or-string" if "str" in text and "int" in text else "preserve-unknown-fields"
            return {f"x-kubernetes-{mark}": True}
        return {"$ref": REF + self.add(declared)}

    def _merging(self, name: str, wire: str) -> dict[str, Any]:
        place = (name, wire)
        if place in SETS:
            return {"x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge"}
        if place in PATCH_ONLY:
            return {
                "x-kubernetes-patch-merge-key": PATCH_ONLY[place],
                "x-kubernetes-patch-strategy": "merge",
            }
        if place not in MERGE_KEYS:
            return {}
        keys = MERGE_KEYS[place]
        return {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": list(keys),
            "x-kubernetes-patch-merge-key": keys[0],
            "x-kubernetes-patch-strategy": "merge,retainKeys" if place in RETAIN_KEYS else "merge",
        }


def generate() -> str:
    """The file's text."""
    generator = _Generator()
    models = {}
    for model in (*(kind.model for kind in KINDS), *EXTRA_MODELS):
        models[model] = generator.add(model)
    for kind in KINDS:
        group, _, version = kind.api.rpartition("/")
        definition = generator.definitions[models[kind.model]]
        definition["x-kubernetes-group-version-kind"] = [{"group": group, "kind": kind.kind, "version": version}]
    lines = [
        f"{json.dumps(name)}: {json.dumps(schema, sort_keys=True)}"
        for name, schema in sorted(generator.definitions.items())
    ]
    body = ",\n".join(lines)
    return f'{{"models": {json.dumps(models, sort_keys=True, indent=0)},\n"definitions": {{\n{body}\n}}}}\n'


if __name__ == "__main__":
    PATH.write_text(generate())
