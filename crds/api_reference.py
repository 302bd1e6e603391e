"""docs/api.md, from the types: a section for each, a table of its fields."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from finetune_api.base import NoEffect
from finetune_api.structural import field_schema

HEADER = """# The API

Generated from the types in crds/finetune_api by `make crds`; do not edit. `kubectl explain` says the same. Lists and
texts are bounded: a value beyond its bound is refused when it is applied. Fields marked ◦ change how a stage reports or
saves, never what it computes: editing them computes nothing again.
"""
Root = tuple[str, str, type[BaseModel]]


def reference(roots: Sequence[Root]) -> str:
    """The whole document; `roots` are (kind, what it is, its spec's type)."""
    parts = [HEADER]
    seen: list[type[BaseModel]] = []
    for kind, text, model in roots:
        models = [each for each in _models_below(model) if each not in seen]
        seen += models
        parts.append(f"## {kind}\n\n{text}\n")
        parts += [_section(each) for each in models]
    return "\n".join(parts)


def _models_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """`model` and all types that its fields have, each once, in the order in which a reader meets them."""
    found: list[type[BaseModel]] = [model]
    for each in found:
        for info in each.model_fields.values():
            found += [inner for inner in _models_in(info.annotation) if inner not in found]
    yield from found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _section(model: type[BaseModel]) -> str:
    said = re.sub(r"\s+", " ", (model.__doc__ or "").strip())
    rows = [_row(str(info.alias or name), info) for name, info in model.model_fields.items()]
    if not rows:
        return f"### {model.__name__}\n\n{said}\n"
    table = ["| Field | Type | Default | What it is |", "|---|---|---|---|", *rows]
    return f"### {model.__name__}\n\n{said}\n\n" + "\n".join(table) + "\n"


def _row(alias: str, info: FieldInfo) -> str:
    mark = " ◦" if any(isinstance(each, NoEffect) for each in info.metadata) else ""
    text, default = _default(info)
    return f"| `{alias}`{mark} | {_type(info)} | {default} | {_cell(text)} |"


def _default(info: FieldInfo) -> tuple[str, str]:
    """The description without its default, and the default."""
    text, _, said = (info.description or "").partition(" Default: ")
    if said:
        return text, _cell(said.removesuffix("."))
    if info.is_required():
        return text, "*required*"
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined or default is None:
        return text, "none"
    if isinstance(default, BaseModel):
        return text, "see there"
    if default in ("", [], {}):
        return text, "empty"
    return text, f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(info: FieldInfo) -> str:
    models = _models_in(info.annotation)
    links = " or ".join(f"[{model.__name__}](#{model.__name__.lower()})" for model in models)
    # A list of several types, told apart by their `type`, has no one schema.
    return f"list of {links}" if len(models) > 1 else _type_words(field_schema(info), links)


def _type_words(schema: dict[str, Any], links: str) -> str:
    if schema.get("type") == "array":
        return f"list of {_type_words(schema['items'], links)}{_bounds(schema, 'Items', ' items')}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of {_type_words(schema['additionalProperties'], links)}{_bounds(schema, 'Properties', ' keys')}"
    return links or _plain_words(schema)


def _plain_words(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if schema["type"] == "string":
        return f"text{_bounds(schema, 'Length', ' characters')}"
    return f"{schema['type']}{_range(schema)}"


def _bounds(schema: dict[str, Any], what: str, unit: str) -> str:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if high is None:
        return ""
    return f", {low} to {high}{unit}" if low else f", at most {high}{unit}"


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    words = []
    if low is not None:
        words.append(f"{'above' if schema.get('exclusiveMinimum') else 'at least'} {low:g}")
    if high is not None:
        words.append(f"{'below' if schema.get('exclusiveMaximum') else 'at most'} {high:,}")
    return f", {', '.join(words)}" if words else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
