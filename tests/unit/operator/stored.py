"""What the API server makes of a FinetuneJob's status: JSON that the CRD's schema lets through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft4Validator

from finetune_api.crd import crd

Body = dict[str, Any]


def closed(schema: Body) -> Body:
    """A structural schema as jsonschema reads it: what the API server would prune is an error."""
    result = {name: value for name, value in schema.items() if not name.startswith("x-kubernetes-")}
    if "properties" in schema:
        result["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
        result["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = closed(schema["additionalProperties"])
    if "items" in schema:
        result["items"] = closed(schema["items"])
    return result


_STATUS = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
STATUS_SCHEMA = Draft4Validator(closed(_STATUS))


def as_stored(value: Any) -> Any:
    """`value` as the API server gives it back: JSON with sorted keys; NaN is refused."""
    return json.loads(json.dumps(value, sort_keys=True, allow_nan=False))


def unique_keys(status: Mapping[str, Any]) -> bool:
    """Whether list-maps have no key twice, which the API server would refuse."""
    pairs = (("stages", "name"), ("conditions", "type"), ("artifacts", "name"))
    names = [[item[key] for item in status.get(field, [])] for field, key in pairs]
    return all(len(set(each)) == len(each) for each in names)
