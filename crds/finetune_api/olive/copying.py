"""Copying values into the fields of our types: each is checked against its field, so that what lands is valid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from finetune_api.olive.notes import NoteKind
from finetune_api.olive.reading import Source

Fields = dict[str, Source]
UNKNOWN = (
    "FinetuneJob has no such field, and Olive's schema has none of this name here; Olive ignores such keys "
    "without an error."
)


def copy_fields(fields: Fields, model: type[BaseModel], target: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Take from `fields` all that `model` has a field for, as its camelCase members.

    `names` gives the model's names for those that Olive spells otherwise. A value that does not fit its field is left
    out, with a note that says why and what holds instead. `target` is the path of the model's object in the job.
    """
    copied: dict[str, Any] = {}
    for key in list(fields):
        info = model.model_fields.get(names.get(key, key))
        if info is None or _is_object(info):
            continue
        source, alias = fields.pop(key), str(info.alias)
        if alias in copied:
            source.left_out(f"another spelling of {alias} is given too, and counts.")
        elif source.value is None:
            source.left_out(f"null is Olive's default; {target}.{alias} is not written, {_default(info)}.")
        elif (misfit := _misfit(info, source.value)) is not None:
            source.note(NoteKind.DECIDE, f"{source.value!r} does not fit {target}.{alias}: {misfit}. {_without(info)}")
        else:
            copied[alias] = source.value
            source.land(f"{target}.{alias}")
    return copied


def leave_rest(fields: Fields, reasons: Mapping[str, str]) -> None:
    """A note for all that is still in `fields`, with the reason that `reasons` gives for its key."""
    for key in list(fields):
        fields.pop(key).left_out(reasons.get(key, UNKNOWN))


def accepts(model: type[BaseModel], name: str, value: Any) -> bool:
    """Whether `model` has a field `name` that takes `value`."""
    info = model.model_fields.get(name)
    return info is not None and _misfit(info, value) is None


def _is_object(info: FieldInfo) -> bool:
    """Whether the field is an object of ours, whose members are read one by one, or not at all."""
    return isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)


def _misfit(info: FieldInfo, value: Any) -> str | None:
    adapter: TypeAdapter[Any] = TypeAdapter(
        info.rebuild_annotation(), config=ConfigDict(strict=True, allow_inf_nan=False)
    )
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["msg"]
        return first[0].lower() + first[1:]
    return None


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "though the job needs it"
    default = info.get_default(call_default_factory=True)
    return "which leaves the choice to the trainer" if default is None else f"so {default!r} holds"


def _without(info: FieldInfo) -> str:
    return f"It was left out, {_default(info)}."
