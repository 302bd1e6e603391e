"""A row's text: the template or the joined columns, and where in it the completion begins."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from finetune_api.data import PreProcessDataConfig
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.context import Row
from finetune_trainer.errors import StageFailure, bad_input


@dataclass(frozen=True)
class Sample:
    """A rendered row. The completion is `text[completion_start:]`; 0 where a row has no prompt."""

    text: str
    completion_start: int


@dataclass(frozen=True)
class _Piece:
    """Text as it stands, then a column's value, if any."""

    literal: str
    column: str | None


def render(rows: Sequence[Row], config: PreProcessDataConfig, *, name: str = "") -> list[Sample]:
    """Each row's text. `name` is the data config's, for messages.

    Raises StageFailure: ColumnNotFound where no row has a column, DataInvalid where one row lacks it or holds
    null, a list or an object there.
    """
    pieces = _pieces(config)
    _require_columns(rows, pieces, config, name)
    completion = config.text_cols[-1] if len(config.text_cols) > 1 else None
    return [_rendered(row, number, pieces, completion, name) for number, row in enumerate(rows, 1)]


def prompt_of(row: Row, config: PreProcessDataConfig) -> tuple[str, str]:
    """The text that a model is given, and the answer it should give: the value of the last of textCols.

    What follows that value in the template is no part of the answer.
    """
    sample = render([row], config)[0]
    return sample.text[: sample.completion_start], _text(row[config.text_cols[-1]], 1, config.text_cols[-1], "")


def _pieces(config: PreProcessDataConfig) -> list[_Piece]:
    if config.text_template is not None:
        return [_Piece(literal, column) for literal, column, _, _ in Formatter().parse(config.text_template)]
    return [_Piece(" " if index else "", column) for index, column in enumerate(config.text_cols)]


def _rendered(row: Row, number: int, pieces: list[_Piece], completion: str | None, name: str) -> Sample:
    text = ""
    start: int | None = None
    for piece in pieces:
        text += piece.literal
        if piece.column is None:
            continue
        if piece.column == completion and start is None:
            start = len(text)
        text += _text(row.get(piece.column), number, piece.column, name)
    return Sample(text, start or 0)


def _text(value: object, number: int, column: str, name: str) -> str:
    """A column's value as text: strings as they are, numbers and truth values as JSON writes them."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    kind = "null or missing" if value is None else f"a {type(value).__name__}"
    path = f"spec.dataConfigs[name={name}].preProcessDataConfig.textCols"
    remedy = "Give every row a string or a number there."
    raise bad_input(Reason.DATA_INVALID, problem(path, column, f"in row {number} this column is {kind}", remedy))


def _require_columns(rows: Sequence[Row], pieces: list[_Piece], config: PreProcessDataConfig, name: str) -> None:
    present = list(dict.fromkeys(column for row in rows for column in row))
    for piece in pieces:
        if piece.column is not None and rows and piece.column not in present:
            raise _column_not_found(piece.column, present, config, name)


def _column_not_found(column: str, present: list[str], config: PreProcessDataConfig, name: str) -> StageFailure:
    template = config.text_template is not None
    path = f"spec.dataConfigs[name={name}].preProcessDataConfig.{'textTemplate' if template else 'textCols'}"
    shown = f"{{{column}}}" if template else column
    columns = ", ".join(present[:16]) + (", …" if len(present) > 16 else "")
    close = difflib.get_close_matches(column, present, n=1, cutoff=0.4)
    nearest = close[0] if close else None
    lower = next((item for item in present if item.lower() == column.lower()), nearest)
    remedy = f"Write {f'{{{lower}}}' if template else lower}." if lower else "Name one of these columns."
    message = f"no row has this column; the columns are {columns}" if present else "the rows have no columns"
    return bad_input(Reason.COLUMN_NOT_FOUND, problem(path, shown, message, remedy))
