"""What pydantic found wrong, in our words: path, value, remedy, and the nearest right name."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Union

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from finetune_api import reserved
from finetune_api.problems import Problem, problem

# Names of Olive's earlier releases for fields of ours, beside plain snake_case.
OLIVE_SPELLINGS = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    "source_max_len": "maxSeqLen",
    "corpus_strategy": "strategy",
    "evaluation_strategy": "evalStrategy",
    "from_pretrained_args": "loadKwargs",
    "model_loading_args": "loadKwargs",
    "model_name": "modelPath",
}


def schema_problems(error: ValidationError, root: type[BaseModel], data: Any, prefix: str) -> list[Problem]:
    """One Problem for each error of `error`, raised by validating `data` as a `root`."""
    return [_problem(item, root, data, prefix) for item in error.errors(include_url=False)]


def _problem(error: ErrorDetails, root: type[BaseModel], data: Any, prefix: str) -> Problem:
    loc = error["loc"]
    path = prefix + field_path(loc, data)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(path, error, _fields_at(root, loc[:-1]))
    if kind == "missing":
        return problem(path, None, "required, but not there", "Give it a value.")
    if kind in ("literal_error", "union_tag_invalid"):
        value, inside = context.get("tag", error["input"]), ".type" if "tag" in context else ""
        return _unknown_value(path + inside, value, str(context.get("expected") or context.get("expected_tags")))
    if kind == "union_tag_not_found":
        return problem(f"{path}.type", None, "required, but not there", "Give the pass its type.")
    if kind == "value_error":
        return problem(path, _shown(error["input"]), str(context["error"]))
    # A pattern says little to people; what the field is for says more.
    remedy = _about(root, loc) if kind == "string_pattern_mismatch" else ""
    return problem(path, _shown(error["input"]), error["msg"][0].lower() + error["msg"][1:], remedy)


def _unknown_field(path: str, error: ErrorDetails, known: Sequence[str]) -> Problem:
    name, shown = str(error["loc"][-1]), _shown(error["input"])
    meanwhile = reserved.field(name)
    if meanwhile is not None:
        return problem(path, shown, reserved.MESSAGE, meanwhile)
    return problem(path, shown, "unknown field", _nearest(name, known))


def _unknown_value(path: str, value: Any, expected: str) -> Problem:
    name = path.rpartition(".")[2]
    if name in reserved.VALUES:
        return problem(path, _shown(value), "a reserved value, which v1alpha1 does not have", reserved.VALUES[name])
    meanwhile = reserved.kind(value) if name == "type" else None
    if meanwhile is not None:
        return problem(path, value, reserved.MESSAGE, meanwhile)
    return problem(path, value, "not a known value", f"Use {expected}.")


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else value


def field_path(loc: Sequence[int | str], data: Any) -> str:
    """`loc` as Kubernetes writes it (`.passes[0].config.r`), without pydantic's union tags."""
    path, here = "", data
    for index, step in enumerate(loc):
        if isinstance(step, int):
            path += f"[{step}]"
            here = here[step] if isinstance(here, Sequence) and step < len(here) else None
        elif _is_union_tag(step, here, last=index == len(loc) - 1):
            continue
        else:
            path += f".{step}"
            here = here.get(step) if isinstance(here, Mapping) else None
    return path


def _is_union_tag(step: str, here: Any, *, last: bool) -> bool:
    return isinstance(here, Mapping) and step not in here and not last and here.get("type") == step


def _fields_at(root: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The names of the fields of the object at `loc`; none where it is a plain map."""
    return sorted({info.alias or name for model in _models_at(root, loc) for name, info in model.model_fields.items()})


def _about(root: type[BaseModel], loc: Sequence[int | str]) -> str:
    """The first sentence of the description of the field at `loc`, or of the list or map that it is an item of."""
    for length in range(len(loc), 0, -1):
        for model in _models_at(root, loc[: length - 1]):
            for name, info in model.model_fields.items():
                if (info.alias or name) == loc[length - 1] and info.description:
                    return info.description.split(". ")[0].rstrip(".") + "."
    return ""


def _models_at(root: type[BaseModel], loc: Sequence[int | str]) -> list[type[BaseModel]]:
    """The types that the object at `loc` may be of."""
    candidates: list[type[BaseModel]] = [root]
    for step in loc:
        if isinstance(step, int):
            continue
        tagged = [model for model in candidates if _tag(model) == step]
        if tagged:
            candidates = tagged
            continue
        annotations = [
            info.annotation
            for model in candidates
            for name, info in model.model_fields.items()
            if (info.alias or name) == step
        ]
        candidates = [model for annotation in annotations for model in _models_in(annotation)]
    return candidates


def _tag(model: type[BaseModel]) -> str | None:
    info = model.model_fields.get("type")
    values = typing.get_args(info.annotation) if info else ()
    return values[0] if len(values) == 1 else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = typing.get_origin(annotation)
    if origin in (list, Union, types.UnionType) or origin is typing.Annotated:
        return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
    return []


def _nearest(name: str, known: Sequence[str]) -> str:
    """What to write instead of the unknown field `name`."""
    renamed = OLIVE_SPELLINGS.get(name, to_camel(name))
    if renamed in known:
        return f"Write {renamed}."
    close = difflib.get_close_matches(renamed, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known here: {', '.join(known)}." if known else "Remove it."
