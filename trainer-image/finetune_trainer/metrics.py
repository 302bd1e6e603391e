"""Figures about a model's answers, with what is needed to judge them."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_Z95 = 1.959964  # the standard normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Accuracy:
    """The share of `n` answers that equal their reference, its 95 % interval, and what guessing would reach.

    `majority` is the accuracy of always giving the commonest reference.
    """

    value: float
    n: int
    low: float
    high: float
    majority: float


def normalised(text: str) -> str:
    """`text` as it is compared: stripped, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text).strip()


def accuracy(answers: Sequence[str], references: Sequence[str]) -> Accuracy:
    """Compares answers with their references, both normalised; there is at least one of each."""
    wanted = [normalised(reference) for reference in references]
    correct = sum(normalised(answer) == reference for answer, reference in zip(answers, wanted, strict=True))
    n = len(wanted)
    low, high = wilson_interval(correct, n)
    commonest = Counter(wanted).most_common(1)[0][1]
    return Accuracy(correct / n, n, low, high, commonest / n)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953); n is at least 1."""
    share = successes / n
    centre = share + _Z95**2 / (2 * n)
    spread = _Z95 * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
