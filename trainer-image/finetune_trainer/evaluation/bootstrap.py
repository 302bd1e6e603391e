"""The bootstrap: how far a figure would move if other rows of the same kind had been drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_RESAMPLES = 1000
_DRAWN_AT_ONCE = 1_000_000

Rows = npt.NDArray[np.float64]


def interval(of: Callable[[npt.NDArray[np.int64]], Rows], rows: int, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a figure over `rows` rows (Efron 1979, doi:10.1214/aos/1176344552).

    `of` takes indices of drawn rows, [resamples, rows], and returns the figure of each resample, [resamples]. Whole
    rows are drawn, 1000 times as many as there are, by a fixed seed.
    """
    random = np.random.default_rng(seed)
    found: list[float] = []
    while len(found) < _RESAMPLES:
        drawn = random.integers(0, rows, (max(1, min(_RESAMPLES, _DRAWN_AT_ONCE // rows)), rows))
        found.extend(of(drawn))
    # Figures that were drawn, not points between: where some are infinite there is nothing between.
    low = np.quantile(found[:_RESAMPLES], 0.025, method="lower")
    high = np.quantile(found[:_RESAMPLES], 0.975, method="higher")
    return float(low), float(high)
