"""The split expressions of `datasets`: `train[:70%]`, `train[100:200]`, `train[-10%:]+validation`.

Semantics are those of datasets' "Slice splits" (https://huggingface.co/docs/datasets/loading#slice-splits): percent
boundaries are rounded to the nearest row (half to even), negative ones count from the end, and what lies beyond the
rows is cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
_BOUND = r"-?[0-9]{1,15}%?"
_PART = rf"{_NAME}(\[({_BOUND})?:({_BOUND})?\](\((closest|pct1_dropremainder)\))?)?"
# What the CRD can say; `parse_split` refuses the rest.
PATTERN = rf"^{_PART}( *\+ *{_PART})*$"
NAME_PATTERN = rf"^{_NAME}$"
_SLICE = re.compile(
    rf"(?P<split>{_NAME})(\[(?P<start>{_BOUND})?:(?P<stop>{_BOUND})?\](\((?P<rounding>closest|pct1_dropremainder)\))?)?"
)


@dataclass(frozen=True)
class Slice:
    """A run of one split's rows. Boundaries are rows, or whole percents where `percent`; None is the split's end.

    `whole_percents` makes every percent the same number of rows, so that a remainder is dropped.
    """

    split: str
    start: int | None = None
    stop: int | None = None
    percent: bool = False
    whole_percents: bool = False

    @property
    def needs_count(self) -> bool:
        """Whether `bounds` depends on how many rows there are beyond what reading them shows."""
        return self.percent or any(bound is not None and bound < 0 for bound in (self.start, self.stop))

    def bounds(self, rows: int) -> tuple[int, int]:
        """The half-open range of rows, of a split with so many.

        Raises ValueError where a split of fewer than 100 rows is to have whole percents.
        """
        start = 0 if self.start is None else self._row(self.start, rows)
        stop = rows if self.stop is None else self._row(self.stop, rows)
        return min(start, rows), min(stop, rows)

    def _row(self, bound: int, rows: int) -> int:
        distance = bound
        if self.percent and self.whole_percents:
            if rows < 100:
                raise ValueError(f"{self.split} has {rows} rows; pct1_dropremainder needs 100")
            distance = bound * (rows // 100)
        elif self.percent:
            distance = round(bound * rows / 100)
        # By the sign that is written: in datasets itself -1% of 10 rows, rounded to 0, is the first row.
        return max(rows + distance, 0) if bound < 0 else distance


def parse_split(text: str) -> tuple[Slice, ...]:
    """The slices that `text` adds up, in order. Raises ValueError where it cannot be read."""
    return tuple(_slice(part.strip()) for part in text.split("+"))


def _slice(text: str) -> Slice:
    match = _SLICE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no split, such as train, train[:70%] or train[100:200]")
    start, stop = match["start"], match["stop"]
    # As in datasets, one percent sign makes both boundaries percents.
    percent = any(bound is not None and bound.endswith("%") for bound in (start, stop))
    found = Slice(
        match["split"], _number(start), _number(stop), percent, whole_percents=match["rounding"] == "pct1_dropremainder"
    )
    if percent and any(bound is not None and abs(bound) > 100 for bound in (found.start, found.stop)):
        raise ValueError(f"{text!r} has a boundary beyond 100 %")
    if found.whole_percents and not percent:
        raise ValueError(f"{text!r} rounds, but has no percents")
    return found


def _number(bound: str | None) -> int | None:
    return None if bound is None else int(bound.removesuffix("%"))
