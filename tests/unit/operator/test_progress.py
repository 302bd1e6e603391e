"""Progress from the end of a log that anybody may have written."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.progress import LIMIT_BYTES, last_progress


def line(**fields: Any) -> str:
    return json.dumps({"kind": "progress", **fields})


def shown(log: str) -> dict[str, Any]:
    found = last_progress(log)
    return found.wire() if found else {}


def test_the_newest_figures_are_shown() -> None:
    log = "\n".join([line(step=1, total=9, loss=2.0), "a plain line", line(step=2, total=9, loss=1.5, gradNorm=3)])
    assert shown(log) == {"activity": "", "step": 2, "total": 9, "loss": 1.5}


def test_figures_stay_beside_a_newer_activity() -> None:
    log = "\n".join([line(step=8, total=9, loss=1.0, epoch=2), line(activity="saving")])
    assert shown(log) == {"activity": "saving", "step": 8, "total": 9, "loss": 1.0, "epoch": 2.0}


def test_an_activity_alone() -> None:
    assert shown(line(activity="downloading", step=3, total=10)) == {"activity": "downloading", "step": 3, "total": 10}


@pytest.mark.parametrize(
    "log",
    [
        "",
        "no progress",
        "{",
        "{}x",
        line(step=-1),
        line(step=1, uri="s3://elsewhere"),
        line(kind="result"),
        '{"kind": "progress", "loss": NaN}',
        '{"kind": "progress", "loss": 1e999}',
        '{"kind": "progress", "step": 1e3000}',
        line(activity="x" * 65),
        '{"a":' * 5000,
        "[" * 30000,
        "{" * 10**6,
        "\x00\x1b[2J\ud800",
        '{"kind": "progress", "activity": "\ud800"}',
        line(step=1, loss=1.0) + " " * 4096,
    ],
)
def test_what_is_no_progress_is_none(log: str) -> None:
    assert last_progress(log) is None


def test_control_characters_and_markup_are_taken_out() -> None:
    assert shown(line(activity="<script>\x1b[31m\u202e"))["activity"] == "‹script› [31m"


def test_megabytes_without_a_newline_cost_nothing() -> None:
    begin = time.perf_counter()
    assert last_progress("{" + "x" * 20 * LIMIT_BYTES) is None
    assert time.perf_counter() - begin < 1


@given(st.lists(st.text(max_size=60) | st.just(line(step=3, loss=1.0)), max_size=8).map("\n".join))
@settings(max_examples=200, deadline=None)
def test_any_log_is_read(log: str) -> None:
    found = last_progress(log)
    assert found is None or len(found.activity) <= 64
