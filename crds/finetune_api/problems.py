"""A problem that a person can act on: where, what, and what to do."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from finetune_api.base import Model


class Problem(Model):
    """Something wrong with a spec or with what it names."""

    path: Annotated[str, StringConstraints(max_length=256)] = Field(description="The field, e.g. spec.storage.uri.")
    value: Annotated[str, StringConstraints(max_length=256)] = Field("", description="Its value, cut.")
    message: Annotated[str, StringConstraints(max_length=512)] = Field(description="What is wrong.")
    remedy: Annotated[str, StringConstraints(max_length=512)] = Field("", description="What to do.")

    def __str__(self) -> str:
        shown = f" ({self.value})" if self.value else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.path}{shown}: {self.message}.{remedy}"


def problem(path: str, value: Any, message: str, remedy: str = "") -> Problem:
    """A Problem with its parts cut to the lengths that fit a condition."""
    shown = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return Problem(
        path=_cut(path, 256),
        value=_cut(shown, 256),
        message=_cut(message.rstrip("."), 512),
        remedy=_cut(remedy, 512),
    )


def _cut(text: str, limit: int) -> str:
    """`text` cut; half a surrogate pair, which JSON can spell and UTF-8 cannot, becomes a question mark."""
    return text[:limit].encode(errors="replace").decode()
