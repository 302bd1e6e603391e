"""Split expressions mean what `datasets` says they mean."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.splits import PATTERN, Slice, parse_split

BOUND = st.one_of(st.none(), st.integers(-60, 60))


def written(bound: int | None, sign: str = "") -> str:
    return "" if bound is None else f"{bound}{sign}"


@given(BOUND, BOUND, st.integers(0, 50))
def test_rows_are_sliced_as_python_slices_lists(start: int | None, stop: int | None, rows: int) -> None:
    [part] = parse_split(f"train[{written(start)}:{written(stop)}]")
    low, high = part.bounds(rows)
    assert list(range(rows))[low:high] == list(range(rows))[start:stop]


@given(st.integers(0, 100), st.integers(0, 1000))
def test_two_shares_are_the_whole(percent: int, rows: int) -> None:
    first, second = parse_split(f"train[:{percent}%] + train[{percent}%:]")
    assert first.bounds(rows)[0] == 0
    assert first.bounds(rows)[1] == second.bounds(rows)[0]
    assert second.bounds(rows)[1] == rows
    assert abs(first.bounds(rows)[1] - rows * percent / 100) <= 0.5


@given(st.integers(1, 100), st.integers(0, 1000))
def test_a_negative_share_counts_from_the_end(percent: int, rows: int) -> None:
    [part] = parse_split(f"train[-{percent}%:]")
    low, high = part.bounds(rows)
    assert high - low == round(rows * percent / 100)


@pytest.mark.parametrize(
    ("text", "rows", "bounds"),
    [
        ("train[10:20]", 15, [(10, 15)]),
        ("train[:50%]", 999, [(0, 500)]),  # datasets rounds 499.5 to the even row
        ("train[33%:66%]", 999, [(330, 659)]),
        ("train[:50%](pct1_dropremainder)", 999, [(0, 450)]),
        ("train[10:50%]", 200, [(20, 100)]),  # one sign makes both percents
        ("train", 7, [(0, 7)]),
        ("train[:1]+test", 7, [(0, 1), (0, 7)]),
    ],
)
def test_documented_semantics(text: str, rows: int, bounds: list[tuple[int, int]]) -> None:
    assert re.fullmatch(PATTERN, text)
    assert [part.bounds(rows) for part in parse_split(text)] == bounds


@pytest.mark.parametrize(
    "text",
    ["", "train[", "train[1]", "train[:101%]", "tr ain", "a+", "train[:1](closest", "train[:3](pct1_dropremainder)"],
)
def test_what_is_no_split(text: str) -> None:
    with pytest.raises(ValueError, match=r"split|boundary|percents"):
        parse_split(text)


def test_whole_percents_need_a_hundred_rows() -> None:
    with pytest.raises(ValueError, match="needs 100"):
        Slice("train", stop=10, percent=True, whole_percents=True).bounds(99)


@given(st.text(st.sampled_from("train[]:%-+0123 ._()"), max_size=20))
def test_what_the_schema_accepts_is_read_or_refused_in_words(text: str) -> None:
    try:
        parse_split(text)
    except ValueError as error:
        assert str(error)
    else:
        assert re.fullmatch(PATTERN, text.strip())
