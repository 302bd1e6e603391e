"""Media types: what a client accepts and what it sends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml

from finetune_local.apiserver.errors import bad_request, not_acceptable, unsupported_media_type

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class View(Enum):
    """In which form objects are sent."""

    OBJECT = "Object"
    TABLE = "Table"
    METADATA = "PartialObjectMetadata"


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer with: the view of the objects, in JSON or YAML."""

    view: View
    media_type: str = JSON


_VIEWS = {
    "Table": View.TABLE,
    "PartialObjectMetadata": View.METADATA,
    "PartialObjectMetadataList": View.METADATA,
}


def accepted(header: str) -> Answer:
    """The first of the accepted media types that this server has. Raises a 406 where it has none."""
    for part in (header or JSON).split(","):
        media_type, parameters = _parsed(part)
        if media_type not in (JSON, YAML, "application/*", "*/*"):
            continue
        chosen = YAML if media_type == YAML else JSON
        view = parameters.get("as")
        if view is None:
            return Answer(View.OBJECT, chosen)
        if view in _VIEWS and parameters.get("g") == "meta.k8s.io" and parameters.get("v") == "v1":
            return Answer(_VIEWS[view], chosen)
    raise not_acceptable((JSON, YAML))


def _parsed(part: str) -> tuple[str, dict[str, str]]:
    media_type, *parameters = (piece.strip() for piece in part.split(";"))
    return media_type, dict(p.split("=", 1) for p in parameters if "=" in p)


def media_type_of(header: str) -> str:
    """The media type of a Content-Type header, without its parameters."""
    return _parsed(header)[0] if header else JSON


def decode_body(raw: bytes, media_type: str) -> Any:
    """A JSON or YAML body as a value. Raises a 400 or 415."""
    if media_type in (YAML, APPLY_PATCH):
        # _Loader is a safe loader, less one of its types.
        return _parse(lambda: yaml.load(raw, Loader=_Loader), yaml.YAMLError)  # noqa: S506
    if media_type in (JSON, MERGE_PATCH, JSON_PATCH, STRATEGIC_PATCH, "*/*"):
        return _parse(lambda: json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite), ValueError)
    raise unsupported_media_type((JSON, YAML, PROTOBUF))


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"invalid character '{text[0]}' looking for beginning of value")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"cannot unmarshal number {text} into a float64")
    return number


def _parse(parse: Callable[[], Any], failure: type[Exception]) -> Any:
    try:
        return parse()
    except failure as error:
        raise bad_request(f"error decoding the request body: {error}") from error


# The loader in C is there where libyaml was; mypy wants base classes that are known beforehand.
class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """YAML as JSON has it: times stay strings."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def decode_object(raw: bytes, media_type: str) -> dict[str, Any]:
    """A body that must be an object."""
    body = decode_body(raw, media_type)
    if not isinstance(body, dict):
        raise bad_request(f"the request body must be an object, not {type(body).__name__}")
    return body
