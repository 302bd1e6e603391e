"""Files of rows: a JSON array of objects, or one object per line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.context import Row
from finetune_trainer.errors import bad_input


def read_rows(paths: Sequence[Path], *, name: str = "") -> list[Row]:
    """The rows of `paths`, in order; `name` is the data config that they belong to, for messages.

    Raises StageFailure (DataInvalid) naming the file, the line or item, and what is wrong with it.
    """
    return [row for path in paths for row in _read(path, files_path(name))]


def files_path(name: str) -> str:
    """The path of a data config's files in the spec."""
    return f"spec.dataConfigs[name={name}].loadDatasetConfig.dataFiles"


def _read(path: Path, field: str) -> list[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(field, path, f"byte {error.start} is not UTF-8", "Save the file as UTF-8.")
    if text.lstrip()[:1] == "[":
        return _array(text, path, field)
    return _lines(text, path, field)


def _array(text: str, path: Path, field: str) -> list[Row]:
    try:
        items = json.loads(text)
    except ValueError as error:
        _refuse(field, path, f"no valid JSON: {error}", "Correct the array, or write one object per line.")
    return [_row(item, f"item {index}", path, field) for index, item in enumerate(items, 1)]


def _lines(text: str, path: Path, field: str) -> list[Row]:
    rows = []
    # Only "\n" ends a line: JSON strings may hold the other characters that splitlines() would cut at.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            _refuse(field, path, f"line {number} is no valid JSON: {error}", "Write one object on each line.")
        rows.append(_row(item, f"line {number}", path, field))
    return rows


def _row(item: Any, place: str, path: Path, field: str) -> Row:
    if not isinstance(item, dict):
        remedy = 'Write objects with the columns as keys, such as {"text": "…"}.'
        _refuse(field, path, f"{place} is a {type(item).__name__}, not an object", remedy)
    return item


def _refuse(field: str, path: Path, message: str, remedy: str) -> NoReturn:
    raise bad_input(Reason.DATA_INVALID, problem(field, path.name, message, remedy))
