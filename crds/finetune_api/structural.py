"""A pydantic type as a structural OpenAPI v3 schema, the form that a CRD wants.

No `$ref`, no `anyOf`, no `default`, no `additionalProperties: false`: an API server's structural schemas are closed
as they are. Optional fields are those that are not required; their default is said in the description.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Literal, Union

import annotated_types
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from finetune_api import quantity
from finetune_api.base import ListMap, Quantity

Schema = dict[str, Any]
Special = Mapping[str, Callable[[FieldInfo], Schema]]


def structural(model: type[BaseModel], description: str, special: Special | None = None) -> Schema:
    """The schema of `model`. `special` gives the schema of fields (by alias) that the types cannot say."""
    properties: Schema = {}
    required: list[str] = []
    for name, info in model.model_fields.items():
        alias = info.alias or name
        if special and alias in special:
            properties[alias] = special[alias](info)
        else:
            properties[alias] = {**field_schema(info), "description": describe_default(info)}
        if info.is_required():
            required.append(alias)
    schema: Schema = {"type": "object"}
    if description:
        schema["description"] = description
    if properties:
        schema["properties"] = properties
    if required:
        schema["required"] = required
    rules = getattr(model, "cel", ())
    if rules:
        schema["x-kubernetes-validations"] = [
            {"rule": rule, "message": message, "fieldPath": path} for rule, message, path in rules
        ]
    return schema


def describe_default(info: FieldInfo) -> str:
    """The field's description, with its default in words where it has one and does not say it already."""
    text = info.description or ""
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined or default is None or isinstance(default, BaseModel) or "Default:" in text:
        return text
    if default in ("", [], {}):
        return f"{text} Default: empty."
    shown = str(default).lower() if isinstance(default, bool) else default
    return f"{text} Default: {', '.join(shown) if isinstance(shown, list) else shown}."


def field_schema(info: FieldInfo) -> Schema:
    """The schema of one field, without its description."""
    return _annotated(info.annotation, list(info.metadata))


def _annotated(annotation: Any, marks: list[Any]) -> Schema:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        return _annotated(inner, [*marks, *more])
    if any(isinstance(mark, Quantity) for mark in marks):
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": quantity.PATTERN,
            "x-kubernetes-int-or-string": True,
        }
    if origin in (Union, types.UnionType):
        (inner,) = [argument for argument in typing.get_args(annotation) if argument is not type(None)]
        return _annotated(inner, marks)
    return {**_bare(annotation, origin, marks), **_bounds(annotation, origin, marks)}


def _bare(annotation: Any, origin: Any, marks: list[Any]) -> Schema:
    if origin is Literal:
        values = list(typing.get_args(annotation))
        kinds = {bool: "boolean", int: "integer", str: "string"}
        return {"type": kinds[type(values[0])], "enum": values}
    if origin is list:
        (inner,) = typing.get_args(annotation)
        return {"type": "array", "items": _annotated(inner, []), **_list_type(marks)}
    if origin is dict:
        _, inner = typing.get_args(annotation)
        return {"type": "object", "additionalProperties": _annotated(inner, [])}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return structural(annotation, "")
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return {"type": "string", "enum": [str(value) for value in annotation]}
    simple: dict[Any, Schema] = {
        bool: {"type": "boolean"},
        int: {"type": "integer"},
        float: {"type": "number"},
        str: {"type": "string"},
    }
    if annotation not in simple:
        raise TypeError(f"no structural schema for {annotation!r}")
    return simple[annotation]


def _list_type(marks: list[Any]) -> Schema:
    keys = [mark.key for mark in marks if isinstance(mark, ListMap)]
    if keys:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}
    return {"x-kubernetes-list-type": "atomic"}


def _bounds(annotation: Any, origin: Any, marks: list[Any]) -> Schema:
    """Bounds from annotated-types' and pydantic's marks, under the name that the value's kind has for them."""
    sized = {list: ("minItems", "maxItems"), dict: ("minProperties", "maxProperties")}
    low, high = sized.get(origin, ("minLength", "maxLength"))
    bounds: Schema = {}
    for mark in _flat(marks):
        match mark:
            case annotated_types.Ge(ge=value):
                bounds["minimum"] = value
            case annotated_types.Gt(gt=value):
                bounds |= {"minimum": value, "exclusiveMinimum": True}
            case annotated_types.Le(le=value):
                bounds["maximum"] = value
            case annotated_types.Lt(lt=value):
                bounds |= {"maximum": value, "exclusiveMaximum": True}
            case annotated_types.MinLen(min_length=value):
                bounds[low] = value
            case annotated_types.MaxLen(max_length=value):
                bounds[high] = value
            case StringConstraints(pattern=str(value)):
                bounds["pattern"] = value
    return bounds


def _flat(marks: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for mark in marks:
        if isinstance(mark, StringConstraints):
            flat.append(mark)
            for name, kind in (
                ("min_length", annotated_types.MinLen),
                ("max_length", annotated_types.MaxLen),
            ):
                value = getattr(mark, name)
                if value is not None:
                    flat.append(kind(value))
        elif isinstance(mark, FieldInfo):
            flat.extend(mark.metadata)
        else:
            flat.append(mark)
    return flat
