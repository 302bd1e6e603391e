"""Rules of the other built-in kinds that have some."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

from finetune_local.apiserver.errors import (
    Cause,
    bad_request,
    forbidden_value,
    invalid_value,
    required,
    unsupported_value,
)
from finetune_local.apiserver.objects import Object, now
from finetune_local.apiserver.strategies.base import Decoded, FilledStrategy, PlainStrategy
from finetune_local.apiserver.strategies.pods import default_template, template_causes

if TYPE_CHECKING:
    from finetune_local.apiserver.resources import Resource

_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_MAX_DATA = 1024 * 1024
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[-+]\d\d:\d\d)")
_ABOVE_ZERO = "must be greater than 0"


class DataStrategy(PlainStrategy):
    """ConfigMaps and Secrets: `immutable`, keys and size."""

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(resource, new, old)
        for member in ("data", "binaryData"):
            for key in new.get(member) or {}:
                if not _DATA_KEY.fullmatch(key):
                    text = (
                        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. "
                        "'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                    )
                    causes.append(invalid_value(f"{member}[{key}]", key, text))
        size = sum(len(v.encode()) for m in ("data", "binaryData") for v in (new.get(m) or {}).values())
        if size > _MAX_DATA:
            text = f"Too long: may not be more than {_MAX_DATA} bytes"
            causes.append(Cause("FieldValueTooLong", "data", text))
        if old is not None and old.get("immutable"):
            causes += self._frozen_causes(new, old)
        return causes

    def _frozen_causes(self, new: Object, old: Object) -> list[Cause]:
        causes = []
        if not new.get("immutable"):
            causes.append(forbidden_value("immutable", "field is immutable when `immutable` is set"))
        causes += [
            forbidden_value(member, "field is immutable when `immutable` is set")
            for member in ("data", "binaryData")
            if (new.get(member) or {}) != (old.get(member) or {})
        ]
        return causes


class SecretStrategy(DataStrategy):
    def fill(self, obj: Object) -> None:
        plain = obj.pop("stringData", None) or {}
        if plain:
            encoded = {key: base64.b64encode(text.encode()).decode() for key, text in plain.items()}
            obj["data"] = {**(obj.get("data") or {}), **encoded}
        obj.setdefault("type", "Opaque")

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(resource, new, old)
        if old is not None and new.get("type") != old.get("type"):
            causes.append(invalid_value("type", new.get("type"), "field is immutable"))
        return causes


class NamespaceStrategy(PlainStrategy):
    returns_deleted: ClassVar[bool] = True
    name_is_label: ClassVar[bool] = True

    def prepare_create(self, obj: Object) -> None:
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
        self._label(obj)

    def prepare_update(self, new: Object, old: Object) -> None:
        new["spec"] = old["spec"]
        self._label(new)

    def _label(self, obj: Object) -> None:
        labels = {**(obj["metadata"].get("labels") or {})}
        labels["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
        obj["metadata"]["labels"] = labels


class ServiceStrategy(PlainStrategy):
    returns_deleted: ClassVar[bool] = True
    name_is_label: ClassVar[bool] = True
    first_status: ClassVar[Object | None] = {"loadBalancer": {}}

    def fill(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        spec.setdefault("internalTrafficPolicy", "Cluster")
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        if spec["type"] != "ExternalName":
            spec.setdefault("clusterIP", "127.0.0.1")
            spec.setdefault("clusterIPs", [spec["clusterIP"]])
        for port in spec.get("ports", ()):
            port.setdefault("targetPort", port.get("port"))

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(resource, new, old)
        spec = new["spec"]
        if not spec.get("ports") and spec.get("clusterIP") != "None" and spec["type"] != "ExternalName":
            causes.append(required("spec.ports"))
        types = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
        if spec["type"] not in types:
            causes.append(unsupported_value("spec.type", spec["type"], types))
        if old is not None and spec.get("clusterIP") != old["spec"].get("clusterIP"):
            causes.append(invalid_value("spec.clusterIP", spec.get("clusterIP"), "field is immutable"))
        return causes


class LeaseStrategy(PlainStrategy):
    """Leases: whole seconds above zero, and times to the microsecond, written out."""

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        causes, spec = super().validate(resource, new, old), new.get("spec") or {}
        if spec.get("leaseDurationSeconds", 1) <= 0:
            causes.append(invalid_value("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], _ABOVE_ZERO))
        if spec.get("leaseTransitions", 0) < 0:
            text = "must be greater than or equal to 0"
            causes.append(invalid_value("spec.leaseTransitions", spec["leaseTransitions"], text))
        return causes

    def decode(self, resource: Resource, body: Object, *, defaults: bool = True) -> Decoded:
        found = super().decode(resource, body, defaults=defaults)
        spec = found.obj.get("spec") or {}
        for name in ("acquireTime", "renewTime"):
            said = spec.get(name)
            if said is not None and not _MICRO_TIME.fullmatch(said):
                raise bad_request(
                    f'Lease in version "v1" cannot be handled as a Lease: parsing time "{said}" as '
                    '"2006-01-02T15:04:05.000000Z07:00": cannot parse it'
                )
            if said is not None:
                moment = datetime.fromisoformat(said).astimezone(UTC)
                spec[name] = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return found


class ServiceAccountStrategy(PlainStrategy):
    returns_deleted: ClassVar[bool] = True


class EventStrategy(PlainStrategy):
    def prepare_create(self, obj: Object) -> None:
        obj.setdefault("firstTimestamp", None if obj.get("eventTime") else now())
        obj.setdefault("lastTimestamp", obj["firstTimestamp"])
        obj.setdefault("source", {})
        obj.setdefault("type", "Normal")
        for member in ("reportingComponent", "reportingInstance"):
            obj.setdefault(member, "")

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        about = new.get("involvedObject") or {}
        expected = about.get("namespace") or "default"
        if new["metadata"].get("namespace") != expected:
            text = "does not match event.namespace"
            return [invalid_value("involvedObject.namespace", about.get("namespace", ""), text)]
        return []


class ClaimStrategy(PlainStrategy):
    """PersistentVolumeClaims."""

    returns_deleted: ClassVar[bool] = True

    def prepare_create(self, obj: Object) -> None:
        obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
        obj["status"] = {"phase": "Pending"}


class RbacStrategy(PlainStrategy):
    path_names: ClassVar[bool] = True


class BindingStrategy(RbacStrategy):
    """RoleBindings and ClusterRoleBindings."""

    def fill(self, obj: Object) -> None:
        if isinstance(obj.get("roleRef"), dict):
            obj["roleRef"].setdefault("apiGroup", "rbac.authorization.k8s.io")
        for subject in obj.get("subjects") or ():
            group = "" if subject.get("kind") == "ServiceAccount" else "rbac.authorization.k8s.io"
            if group:
                subject.setdefault("apiGroup", group)

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(resource, new, old)
        if old is not None and new.get("roleRef") != old.get("roleRef"):
            causes.append(invalid_value("roleRef", new.get("roleRef"), "cannot change roleRef"))
        return causes


class WorkloadStrategy(FilledStrategy):
    """Deployments and their like: storable, with their template's defaults; nothing runs them here."""

    first_status: ClassVar[Object | None] = {}

    def fill(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("replicas", 1)
        template = spec.setdefault("template", {}).setdefault("spec", {})
        default_template(template)

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(resource, new, old)
        return causes or template_causes(new["spec"]["template"]["spec"], "spec.template.spec")
