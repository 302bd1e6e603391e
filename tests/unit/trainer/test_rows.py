"""Files → rows: every format, compressed or not, sliced, filtered, and never whole in memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.data import DataConfig
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.formats import UnreadableError, format_of, read_file
from finetune_trainer.rows import FileRows
from finetune_trainer.sources import DataFile, SourceFile

ROWS = [{"text": "a\u2028b", "n": "1"}, {"text": 'say "ü",\nand', "n": "2"}, {"text": "", "n": "3"}]


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


BODIES = {
    "lines.jsonl": ("json", json_lines(ROWS)),
    "bom.jsonl": ("json", b"\xef\xbb\xbf" + json_lines(ROWS) + b"\n\n"),
    "array.json": ("json", b" \n" + json.dumps(ROWS).encode()),
    "table.csv": ("csv", b"\xef\xbb\xbf" + as_csv(ROWS)),
    "table.tsv": ("csv", as_csv(ROWS, "\t")),
    "table.parquet": ("parquet", as_parquet(ROWS)),
}


@pytest.mark.parametrize("pack", [lambda body: body, gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("name", BODIES)
def test_all_formats_say_the_same(name: str, pack: Any, tmp_path: Path) -> None:
    kind, body = BODIES[name]
    if kind == "parquet" and pack(b"x") != b"x":
        pytest.skip("a Parquet file is compressed inside")
    (tmp_path / name).write_bytes(pack(body))
    assert list(read_file(tmp_path / name, kind)) == ROWS
    assert format_of(f"folder/{name}.gz") == format_of(f"{name}.zst") == kind


def test_text_is_a_row_per_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\n\n  two \n\u2028".encode())
    assert list(read_file(tmp_path / "a.txt", "text")) == [{"text": "one"}, {"text": "  two "}, {"text": "\u2028"}]


def test_several_compressed_streams_in_one_file(tmp_path: Path) -> None:
    first, second = json_lines(ROWS[:1]) + b"\n", json_lines(ROWS[1:])
    for pack in (gzip.compress, zstandard.ZstdCompressor().compress):
        (tmp_path / "a").write_bytes(pack(first) + pack(second))
        assert list(read_file(tmp_path / "a", "json")) == ROWS


@given(st.lists(st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(max_size=5))), max_size=6), st.booleans())  # fmt: skip  # noqa: E501
def test_json_is_read_as_json_reads_it(tmp_path_factory: Any, rows: list[dict[str, Any]], array: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    text = json.dumps(rows, indent=1) if array else "\n".join(map(json.dumps, rows))
    path.write_text(text)
    assert list(read_file(path, "json")) == rows


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        ("json", b'{"a": 1}\n{"a": \n', "line 2"),
        ("json", b'[{"a": 1}, 3]', "item 2 is a int"),
        ("json", b'"text"', "line 1 is a str"),
        ("json", b"[{", "JSON"),
        ("json", b'[{"a": 1}', "JSON"),
        ("json", b'{\n "a": 1\n}', "line 1"),
        ("json", b'{"a": 1}\n{"a": "\xff"}', "byte 8 of line 2 is not UTF-8"),
        ("json", gzip.compress((json_lines(ROWS) + b"\n") * 50)[:-9], "decompressed"),
        ("json", as_parquet(ROWS), "Parquet"),
        ("csv", b"a,b\n1,2\n3\n", "line 3"),
        ("csv", b"a,b\n1,2,3\n", "has not 2 fields"),
        ("csv", b'a,b\n"1"2,3\n', "line 2 is no valid CSV"),
        ("parquet", b'{"a": 1}', "Parquet"),
    ],
)
def test_what_cannot_be_read_is_named(kind: str, body: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(body)
    with pytest.raises(UnreadableError) as caught:
        list(read_file(tmp_path / "bad", kind))
    assert says in caught.value.message
    assert caught.value.remedy


def rows_of(folder: Path, bodies: dict[str, list[bytes]], **load: Any) -> FileRows:
    split_files, files = [], []
    for split, parts in bodies.items():
        split_files.append({"split": split, "files": [f"s3://b/{split}-{index}" for index in range(len(parts))]})
        for index, body in enumerate(parts):
            path = folder / f"{split}-{index}"
            path.write_bytes(body)
            files.append(DataFile(SourceFile(path.name, len(body), ""), path, split))
    config = {"name": "d", "loadDatasetConfig": {"splitFiles": split_files, **load}}
    return FileRows(DataConfig.model_validate(config), files)


def numbers(*values: int) -> bytes:
    return json_lines([{"n": value, "even": value % 2 == 0} for value in values])


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"split": "train[1:3]"}, [1, 2]),
        ({"split": "train[:50%]"}, [0, 1, 2]),
        ({"split": "train[-2:]"}, [4, 5]),
        ({"split": "test+train[4:]"}, [7, 8, 4, 5]),
        ({"split": "test[5:]"}, []),
        ({"colFilters": {"even": "true"}}, [0, 2, 4]),
        ({"colFilters": {"n": "3"}, "split": "train[:4]"}, [3]),
        ({"colFilters": {"none": "null"}}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_splits_and_filters(load: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"train": [numbers(0, 1), numbers(2, 3, 4, 5)], "test": [numbers(7, 8)]}, **load)
    assert [row["n"] for row in rows] == expected
    assert [row["n"] for row in rows] == expected, "a second reading begins anew"


def test_a_file_is_read_no_further_than_asked(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"train": [numbers(1, 2) + b"\nno json"]}, split="train[:2]")
    assert len(list(rows)) == 2
    with pytest.raises(StageFailure, match="line 3") as caught:
        list(rows_of(tmp_path, {"train": [numbers(1, 2) + b"\nno json"]}))
    assert caught.value.reason is Reason.DATA_INVALID
    assert caught.value.problems[0].path == "spec.dataConfigs[name=d].loadDatasetConfig.dataFiles"
