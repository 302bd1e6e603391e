"""What an ONNX model is compared with: its source's tokens, losses and best tokens over texts, as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

FILE = "reference.json"

# Bounds of what is scored; every text's tokenization is compared.
MOST_SCORED_TEXTS = 64
MOST_SCORED_TOKENS = 8192
MOST_TOKENS_OF_A_TEXT = 512

# On texts that it does not know, a small model's best token leads by less than this at every tenth position.
NEAR_TIE = 0.02
MOST_TIED = 8

BUILTIN_TEXTS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Water boils at 100 degrees Celsius at sea level; on a high mountain it boils sooner.",
    "She opened the letter, read it twice, and put it back into the drawer without a word.",
    "A good map shows less than there is, so that you can see what you need.",
    "In 1969, two people walked on the Moon while a third one flew around it.",
    "To make bread you need flour, water, salt and yeast. Mix them, wait, and bake.",
    "def add(a, b):\n    return a + b\n",
    "Question: What is the capital of France?\nAnswer: Paris.",
)


@dataclass(frozen=True)
class TokenizedText:
    """A text and the ids that the source's own tokenizer gives it, without special tokens."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class ScoredText:
    """n ids that the source model read. `nll` is the sum of −ln p(ids[i+1]) in nats over the first n - 1 positions.

    `best` holds at each of them the most likely next token, and after it those, at most MOST_TIED in all, that are
    within NEAR_TIE of its probability: which of them is first is chance, and quantizing may well change it.
    """

    ids: list[int]
    nll: float
    best: list[list[int]]


@dataclass(frozen=True)
class Reference:
    """What the source says, to which the ONNX model is held."""

    tokenized: list[TokenizedText]
    scored: list[ScoredText]

    @property
    def perplexity(self) -> float:
        """The source's, over all scored texts together."""
        return perplexity(sum(text.nll for text in self.scored), sum(len(text.best) for text in self.scored))

    def write(self, folder: Path) -> None:
        """Writes the reference to `folder`."""
        (folder / FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Reference:
        """Reads what `write` wrote."""
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(
            [TokenizedText(**item) for item in content["tokenized"]],
            [ScoredText(**item) for item in content["scored"]],
        )


def perplexity(nll: float, tokens: int) -> float:
    """exp of the mean loss: `nll` nats over `tokens`; infinite where that is beyond floats."""
    try:
        return math.exp(nll / tokens)
    except OverflowError:
        return math.inf


def texts_to_score(ids: Sequence[Sequence[int]], context: int) -> list[list[int]]:
    """Of all texts' ids, those that are scored: spread evenly, cut, and bounded in number and tokens together."""
    longest = min(MOST_TOKENS_OF_A_TEXT, context)
    usable = [list(text[:longest]) for text in ids if len(text) > 1]
    stride = max(1, len(usable) // MOST_SCORED_TEXTS)
    return list(_within(islice(usable, 0, None, stride), MOST_SCORED_TOKENS))[:MOST_SCORED_TEXTS]


def _within(texts: Iterable[list[int]], tokens: int) -> Iterable[list[int]]:
    for text in texts:
        tokens -= len(text)
        if tokens < 0:
            return
        yield text
