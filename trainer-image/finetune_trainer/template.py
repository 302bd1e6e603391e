"""A row's text: the template or the joined columns, or its chat, and where in it the completion is."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from string import Formatter

from finetune_api.data import PreProcessDataConfig
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.chat import Chats, NoChatError, turns_of
from finetune_trainer.context import Row
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.sample import Sample
from finetune_trainer.tokenizer import TextTokenizer

# Where the first row lacks a column, so many more tell whether all do.
_ROWS_LOOKED_AT = 1000


@dataclass(frozen=True)
class _Piece:
    """Text as it stands, then a column's value, if any."""

    literal: str
    column: str | None


def render(
    rows: Iterable[Row], config: PreProcessDataConfig, *, name: str = "", tokenizer: TextTokenizer | None = None
) -> Iterator[Sample]:
    """Each row's text. `name` is the data config's, for messages.

    A chat needs the `tokenizer`, whose template and special tokens it may name; without one its messages are only
    looked at. Raises StageFailure: ColumnNotFound where no row has a column, DataInvalid where one row lacks it or
    holds there what is no text, or no chat.
    """
    rendered = _chats(rows, config, name, tokenizer) if config.is_chat else _texts(rows, config, name)
    for number, sample in enumerate(rendered, 1):
        _require_characters(sample.text, number, config, name)
        yield sample


def prompt_of(
    row: Row, config: PreProcessDataConfig, *, name: str = "", number: int = 1, tokenizer: TextTokenizer | None = None
) -> tuple[str, str]:
    """The text that a model is given, and the answer it should give: what the assistant says last in a chat, else
    the value of the last of textCols. What follows that value in the template is no part of the answer.

    `number` is the row's, for messages. Raises StageFailure as `render`.
    """
    if config.is_chat:
        if tokenizer is None:
            raise ValueError("a chat's prompt needs the tokenizer")
        messages = _messages(row, number, config, name)
        if not messages or messages[-1]["role"] != "assistant":
            message = f"the chat of row {number} does not end with an answer of the assistant"
            found = problem(_path(name, "messageCol"), config.message_col, message, "End each with one to measure.")
            raise bad_input(Reason.DATA_INVALID, found)
        sample = Chats(config, tokenizer, name).sample(messages, number, spans=True)
        return sample.text[: sample.completion_start], messages[-1]["content"]
    pieces = _pieces(config)
    sample = _rendered(row, number, pieces, config.text_cols[-1], name)
    return sample.text[: sample.completion_start], _text(row[config.text_cols[-1]], number, config.text_cols[-1], name)


def _texts(rows: Iterable[Row], config: PreProcessDataConfig, name: str) -> Iterator[Sample]:
    pieces = _pieces(config)
    completion = config.text_cols[-1] if len(config.text_cols) > 1 else None
    columns = [piece.column for piece in pieces if piece.column is not None]
    for number, row in enumerate(_with_columns(rows, columns, config, name), 1):
        yield _rendered(row, number, pieces, completion, name)


def _chats(
    rows: Iterable[Row], config: PreProcessDataConfig, name: str, tokenizer: TextTokenizer | None
) -> Iterator[Sample]:
    chats = Chats(config, tokenizer, name) if tokenizer else None
    for number, row in enumerate(_with_columns(rows, [config.message_col], config, name), 1):
        messages = _messages(row, number, config, name)
        if chats:
            yield chats.sample(messages, number, spans=config.completion_only_loss)
        else:
            yield Sample("\n".join(message["content"] for message in messages), 0)


def _messages(row: Row, number: int, config: PreProcessDataConfig, name: str) -> list[dict[str, str]]:
    try:
        return turns_of(row.get(config.message_col))
    except NoChatError as error:
        remedy = 'Write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].'
        found = problem(_path(name, "messageCol"), config.message_col, f"in row {number} {error}", remedy)
        raise bad_input(Reason.DATA_INVALID, found) from error


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
    remedy = "Give every row a string or a number there."
    found = problem(_path(name, "textCols"), column, f"in row {number} this column is {kind}", remedy)
    raise bad_input(Reason.DATA_INVALID, found)


def _require_characters(text: str, number: int, config: PreProcessDataConfig, name: str) -> None:
    """Half of a surrogate pair is no character, and no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"row {number} holds {text[error.start]!a}, half of a surrogate pair"
        field = "messageCol" if config.is_chat else "textCols"
        found = problem(_path(name, field), ", ".join(config.columns()), message, "Write whole characters.")
        raise bad_input(Reason.DATA_INVALID, found) from error


def _with_columns(
    rows: Iterable[Row], columns: Sequence[str], config: PreProcessDataConfig, name: str
) -> Iterator[Row]:
    """`rows`. Raises StageFailure (ColumnNotFound) where neither the first nor those after it have all `columns`."""
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        return
    head = [first]
    if any(column not in first for column in columns):
        head += islice(iterator, _ROWS_LOOKED_AT)
        present = list(dict.fromkeys(column for row in head for column in row))
        for column in columns:
            if column not in present:
                raise _column_not_found(column, present, config, name)
    yield from head
    yield from iterator


def _column_not_found(column: str, present: list[str], config: PreProcessDataConfig, name: str) -> StageFailure:
    template = config.text_template is not None
    field = "messageCol" if config.is_chat else "textTemplate" if template else "textCols"
    value = f"{{{column}}}" if template else column
    columns = ", ".join(present[:16]) + (", …" if len(present) > 16 else "")
    close = difflib.get_close_matches(column, present, n=1, cutoff=0.4)
    nearest = close[0] if close else None
    lower = next((item for item in present if item.lower() == column.lower()), nearest)
    remedy = f"Write {f'{{{lower}}}' if template else lower}." if lower else "Name one of these columns."
    message = f"no row has this column; the columns are {columns}" if present else "the rows have no columns"
    return bad_input(Reason.COLUMN_NOT_FOUND, problem(_path(name, field), value, message, remedy))


def _path(name: str, field: str) -> str:
    return f"spec.dataConfigs[name={name}].preProcessDataConfig.{field}"
