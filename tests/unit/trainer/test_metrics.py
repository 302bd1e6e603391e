"""Figures about answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.metrics import accuracy, normalised, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_is_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    """81 of 263: Newcombe 1998, table I; the others by the closed form."""
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


@given(n=st.integers(1, 10_000), share=st.floats(0, 1))
def test_the_interval_holds_the_share_and_stays_within_0_and_1(n: int, share: float) -> None:
    successes = round(n * share)
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1
    assert low < high


def test_answers_are_compared_stripped_and_composed() -> None:
    assert normalised(" Cafe\u0301\n") == "Caf\u00e9"
    found = accuracy([" joy ", "fear", "Cafe\u0301"], ["joy", "joy", "Caf\u00e9 "])
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert found.majority == pytest.approx(2 / 3)
