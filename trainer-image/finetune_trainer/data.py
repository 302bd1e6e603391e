"""Rows → samples of tokens: the same for prepare, training and evaluation."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt

from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.arrange import arrange, lengths_of
from finetune_trainer.errors import bad_input
from finetune_trainer.sample import Sample
from finetune_trainer.template import prompt_of, render
from finetune_trainer.tokenizing import tokenize
from finetune_trainer.tokens import TokenRows, Tokens

__all__ = ["Sample", "TokenRows", "Tokens", "arrange", "lengths_of", "prompt_of", "render", "split_rows", "tokenize"]

Indexes = npt.NDArray[np.int64]


def split_rows(
    hashes: npt.NDArray[np.uint64],
    size: float,
    seed: int,
    *,
    path: str = "spec.passes[*].config.evalDatasetSize",
) -> tuple[Indexes, Indexes]:
    """(train, eval), as indexes: `size` rows, or that share of them where it is below 1, chosen by `seed` for eval.

    Rows with equal `hashes` of their texts stay on one side, so that nothing measured was learned; eval may therefore
    hold a few rows fewer. Both sides keep the rows' order. Raises StageFailure (NoSamples) where a side would
    be empty; `path` is the field it names.
    """
    _, firsts, members, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    wanted = max(1, round(len(hashes) * size)) if size < 1 else int(size)
    if wanted >= len(hashes) or len(counts) < 2:
        message = f"of {len(hashes)} rows ({len(counts)} different) none would be left to learn from"
        raise bad_input(Reason.NO_SAMPLES, problem(path, size, message, "Give more rows, or split fewer off."))
    order = np.argsort(firsts).tolist()
    Random(seed).shuffle(order)  # noqa: S311  (a split, not a secret)
    held_out = np.isin(members, _choose(order, counts, wanted))
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _choose(order: list[int], counts: npt.NDArray[np.int64], wanted: int) -> list[int]:
    """Of groups of `counts` rows, in `order`, those that are together at most `wanted`; the smallest if none fits."""
    sizes = counts.tolist()
    chosen: list[int] = []
    for group in order:
        if sizes[group] <= wanted:
            chosen.append(group)
            wanted -= sizes[group]
        if not wanted:
            break
    return chosen or [min(order, key=sizes.__getitem__)]
