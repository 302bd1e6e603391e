"""How low a figure may truly be, in the light of the rows that were measured: bounds that hold where rows are few.

A row that happens once in hundred is not seen in most samples of fifty, and intervals of Wald's kind, or a plain
bootstrap, take what was not seen for impossible. Here rows are weighted at random (Rubin's Bayesian bootstrap,
doi:10.1214/aos/1176345338), and one more row counts among them, the worst that there is. Of a share this is Clopper and
Pearson's bound; of values between known ends it is Gaffke's (Learned-Miller and Thomas 2019, arXiv:1905.06208).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from finetune_trainer.evaluation.bootstrap import Rows

# So many of the drawn figures lie below a bound: with few, the bound would be a matter of luck itself.
_BELOW = 100
_DRAWN_AT_ONCE = 1_000_000


def lower_bound(of: Callable[[Rows], Rows], counts: Rows, worst: int, tail: float, seed: int = 0) -> float:
    """The bound that the truth is below with a chance of `tail`, for a figure of rows of which some are alike.

    `counts` [kinds] says how many rows of each kind were seen, and `worst` which kind makes the figure the lowest.
    `of` takes weights of the kinds, [draws, kinds], and returns each draw's figure, [draws]. Drawn by a fixed seed.
    """
    random = np.random.default_rng(seed)
    shape = counts.astype(float)
    shape[worst] += 1
    draws = math.ceil(_BELOW / tail)
    found: list[float] = []
    while len(found) < draws:
        size = max(1, min(draws, _DRAWN_AT_ONCE // len(shape)))
        found.extend(of(random.standard_gamma(shape, (size, len(shape)))))
    return float(np.quantile(found[:draws], tail, method="lower"))
