"""Files → rows, one after the other: JSON, JSON lines, CSV, Parquet and text, as they are or compressed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from finetune_trainer.context import Row

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_BOM = b"\xef\xbb\xbf"
# A row that is longer is no row; csv's own bound, 128 KiB, is less than many documents.
_LONGEST_FIELD = 1 << 30
_PARQUET_ROWS = 1024
_SUFFIXES = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}


class UnreadableError(Exception):
    """A file is not what its format says: `message` names the place, `remedy` what to write."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def format_of(name: str) -> str | None:
    """The format that a file's name tells; None where it tells none."""
    return _SUFFIXES.get(Path(_uncompressed(name)).suffix.lower())


def read_file(path: Path, kind: str) -> Iterator[Row]:
    """The rows of a file of format `kind` (json, csv, parquet, text), holding a few at a time.

    Raises UnreadableError naming the line or item, and what is wrong with it.
    """
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        "json": _json,
        "csv": _csv,
        "parquet": _parquet,
        "text": _text,
    }
    return readers[kind](path)


def _uncompressed(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".zst")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The content of `path`, decompressed as its first bytes say, without a byte-order mark."""
    import zstandard  # noqa: PLC0415  (a stage without compressed data does without)

    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        content: IO[bytes] = file
        if magic.startswith(_GZIP):
            content = gzip.GzipFile(fileobj=file)
        elif magic == _ZSTD:
            content = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))  # type: ignore[arg-type]
        elif magic == _PARQUET:
            raise UnreadableError("it is a Parquet file", "Set dataName to parquet.")
        try:
            yield _without_bom(content)
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise UnreadableError(f"it cannot be decompressed: {error}", "Compress the file again.") from error


def _without_bom(content: IO[bytes]) -> IO[bytes]:
    buffered = content if hasattr(content, "peek") else io.BufferedReader(content)  # type: ignore[type-var]
    if buffered.peek(3)[:3] == _BOM:  # type: ignore[attr-defined]
        buffered.read(3)
    return buffered  # type: ignore[return-value]


def _json(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        is_array = _first_character(file) == b"["
        yield from _array(file) if is_array else _lines(file)


def _first_character(file: IO[bytes]) -> bytes:
    """The first byte that is no white space; the white space before it is read."""
    while True:
        head: bytes = file.peek(1)[:1]  # type: ignore[attr-defined]
        if not head.isspace():
            return head
        file.read(1)


def _array(file: IO[bytes]) -> Iterator[Row]:
    import ijson  # noqa: PLC0415  (most files are lines)

    try:
        for number, item in enumerate(ijson.items(file, "item", use_float=True), 1):
            yield _row(item, f"item {number}")
    except (ijson.JSONError, UnicodeDecodeError) as error:
        remedy = "Correct the array, or write one object per line."
        raise UnreadableError(f"no valid JSON: {' '.join(str(error).split())[:200]}", remedy) from error


def _lines(file: IO[bytes]) -> Iterator[Row]:
    # Only "\n" ends a line: JSON strings may hold the other characters that splitlines() would cut at.
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        try:
            item = json.loads(_decoded(line, number))
        except ValueError as error:
            message = f"line {number} is no valid JSON: {error}"
            raise UnreadableError(message, "Write one object on each line.") from error
        yield _row(item, f"line {number}")


def _row(item: Any, place: str) -> Row:
    if not isinstance(item, dict):
        remedy = 'Write objects with the columns as keys, such as {"text": "…"}.'
        raise UnreadableError(f"{place} is a {type(item).__name__}, not an object", remedy)
    return item


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        message = f"byte {error.start + 1} of line {number} is not UTF-8"
        raise UnreadableError(message, "Save the file as UTF-8.") from error


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    with _opened(path) as file:
        lines = (_decoded(line, number) for number, line in enumerate(file, 1))
        delimiter = "\t" if _uncompressed(path.name).endswith(".tsv") else ","
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    message = (
                        f"the row that ends in line {reader.line_num} has not {len(reader.fieldnames or ())} fields"
                    )
                    raise UnreadableError(message, "Give each row one field per column; quote fields with commas.")
                yield row
        except csv.Error as error:
            message = f"line {reader.line_num + 1} is no valid CSV: {error}"
            raise UnreadableError(
                message, 'Quote fields with commas or line ends by ", and double each " in them.'
            ) from error


def _text(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            text = _decoded(line, number).rstrip("\r\n")
            if text:
                yield {"text": text}


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415  (large, and most data is no Parquet)
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        message = f"it cannot be read as Parquet: {' '.join(str(error).split())[:200]}"
        raise UnreadableError(message, "Write the file again, or set dataName to its format.") from error
