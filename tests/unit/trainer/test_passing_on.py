"""What processes write goes on to the log at once, and its end is kept, whole lines only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.passing_on import PassedOn, Tail


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A file as the pod's log, open for writing."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield descriptor, path
    os.close(descriptor)


def test_all_is_passed_on_and_the_last_whole_lines_are_kept(log: tuple[int, Path]) -> None:
    target, path = log
    tail = Tail(limit=30)
    passed = PassedOn(target, tail)
    lines = [f"line {number}\n".encode() for number in range(1000)]
    for line in lines:
        os.write(passed.writer, line)
    os.write(passed.writer, b"no end")
    passed.close()
    passed.finish()
    assert path.read_bytes() == b"".join(lines) + b"no end"
    assert tail.text() == "line 998\nline 999\nno end"


def test_a_line_is_passed_on_before_it_ends(log: tuple[int, Path]) -> None:
    target, path = log
    passed = PassedOn(target, Tail())
    os.write(passed.writer, b"half a li")
    deadline = time.monotonic() + 5
    while not path.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.read_bytes() == b"half a li"
    passed.close()
    passed.finish()


def test_nothing_of_a_line_that_is_too_long_is_kept(log: tuple[int, Path]) -> None:
    """Half of it may begin with half a secret."""
    target, path = log
    tail = Tail()
    passed = PassedOn(target, tail)
    os.write(passed.writer, b"before\n")
    long = b"x" * 50_000
    for part in (long, long, b"the last\nafter\n"):
        os.write(passed.writer, part)
    passed.close()
    passed.finish()
    assert path.read_bytes() == b"before\n" + long + long + b"the last\nafter\n"
    assert "x" not in tail.text()
    assert tail.text().splitlines()[-1] == "after"


def test_who_holds_the_pipe_open_is_not_waited_for(log: tuple[int, Path]) -> None:
    passed = PassedOn(log[0], Tail())
    began = time.monotonic()
    passed.finish()
    assert time.monotonic() - began < 10
    passed.close()


@given(st.lists(st.text("ab\r", max_size=9).map(lambda text: f"{text}\n".encode()), max_size=60), st.integers(1, 40))
def test_what_is_kept_is_the_end_in_whole_lines_within_the_limit(lines: list[bytes], limit: int) -> None:
    tail = Tail(limit)
    for line in lines:
        tail.add(line)
    everything, kept = b"".join(lines).decode(), tail.text()
    assert len(kept) <= limit
    assert everything.endswith(kept)
    cut = len(everything) - len(kept)
    assert cut == 0 or everything[cut - 1] in "\r\n"
