"""Failures as an API server tells them: HTTP codes, reasons and `Status` objects.

Reasons and messages are those of a real server, because clients act on them (kopf and client-go by reason,
kubectl and people by message). See
https://github.com/kubernetes/apimachinery/blob/master/pkg/api/errors/errors.go
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_local.apiserver.resources import Resource


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong with an object.

    `path` is the field as users write it (`spec.passes[0].type`), `reason` the machine-readable kind of
    fault (`FieldValueInvalid`), `message` the text after the path.
    """

    reason: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def shown(value: Any) -> str:
    """A bad value as Kubernetes prints it in messages: strings quoted, the rest as JSON."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def required(path: str, detail: str = "") -> Cause:
    return Cause("FieldValueRequired", path, f"Required value: {detail}" if detail else "Required value")


def invalid_value(path: str, value: Any, detail: str) -> Cause:
    return Cause("FieldValueInvalid", path, f"Invalid value: {shown(value)}: {detail}")


def wrong_type(path: str, value: Any, detail: str) -> Cause:
    return Cause("FieldValueTypeInvalid", path, f"Invalid value: {shown(value)}: {detail}")


def unsupported_value(path: str, value: Any, supported: Iterable[Any]) -> Cause:
    listed = ", ".join(shown(item) for item in supported)
    return Cause("FieldValueNotSupported", path, f"Unsupported value: {shown(value)}: supported values: {listed}")


def duplicate_value(path: str, value: Any) -> Cause:
    return Cause("FieldValueDuplicate", path, f"Duplicate value: {shown(value)}")


def forbidden_value(path: str, detail: str) -> Cause:
    return Cause("FieldValueForbidden", path, f"Forbidden: {detail}")


def too_long(path: str, limit: int) -> Cause:
    return Cause("FieldValueTooLong", path, f"Too long: may not be more than {limit} bytes")


def too_many(path: str, count: int, limit: int) -> Cause:
    return Cause("FieldValueTooMany", path, f"Too many: {count}: must have at most {limit} items")


class ApiError(Exception):
    """A request that fails. Carries what its `Status` body says."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """The `v1.Status` object of this failure."""
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "code": self.code,
            "kind": "Status",
            "message": self.message,
            "metadata": {},
            "reason": self.reason,
            "status": "Failure",
        }
        if self.details is not None:
            body["details"] = self.details
        return body


def _details(resource: Resource, name: str, **more: Any) -> dict[str, Any]:
    details: dict[str, Any] = {"kind": resource.plural, **more}
    if name:
        details["name"] = name
    if resource.group:
        details["group"] = resource.group
    return details


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource.group_resource} "{name}" not found', _details(resource, name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed(method: str) -> ApiError:
    return ApiError(
        405,
        "MethodNotAllowed",
        f"the server does not allow this method on the requested resource: {method}",
        {},
    )


def already_exists(resource: Resource, name: str) -> ApiError:
    return ApiError(
        409, "AlreadyExists", f'{resource.group_resource} "{name}" already exists', _details(resource, name)
    )


def conflict(resource: Resource, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {resource.group_resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(resource, name))


def modified_meanwhile(resource: Resource, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource, name, why)


def invalid(resource: Resource, name: str, causes: list[Cause]) -> ApiError:
    """422 for an object whose fields are wrong; all causes are reported together."""
    qualified = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    texts = [str(cause) for cause in causes]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details: dict[str, Any] = {
        "kind": resource.kind,
        "causes": [{"reason": c.reason, "message": c.message, "field": c.path} for c in causes],
    }
    if resource.group:
        details["group"] = resource.group
    if name:
        details["name"] = name
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {joined}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unsupported_media_type(accepted: Iterable[str]) -> ApiError:
    message = "the body of the request was in an unknown format - accepted media types include: "
    return ApiError(415, "UnsupportedMediaType", message + ", ".join(accepted))


def not_acceptable(offered: Iterable[str]) -> ApiError:
    message = "only the following media types are accepted: " + ", ".join(offered)
    return ApiError(406, "NotAcceptable", message)


def expired(message: str) -> ApiError:
    """410: the resourceVersion or the continue token reaches further back than the server remembers."""
    return ApiError(410, "Expired", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource, name: str, why: str, causes: list[dict[str, str]] | None = None) -> ApiError:
    subject = f'{resource.group_resource} "{name}"' if name else resource.group_resource
    details = _details(resource, name, **({"causes": causes} if causes else {}))
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", details)
