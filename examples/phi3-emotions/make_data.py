"""Makes the example's data: phrases with their tone, for fine-tuning and for two tests of it.

    python make_data.py --out DIR [--seed N]

writes to DIR, as lines of {"phrase": ..., "tone": ...}:

    train.jsonl         800 phrases about half of the cues
    test-seen.jsonl     200 phrases about the same cues, in combinations that no training text has
    test-unseen.jsonl   200 phrases about the other half of the cues, which fine-tuning never sees

The seed decides which half of the cues is which.
"""

import argparse
import json
from pathlib import Path
from random import Random

import grammar

TRAIN_ROWS = 800
TEST_ROWS = 200

Row = dict[str, str]


def make_splits(seed: int) -> dict[str, list[Row]]:
    """The rows of each split by its name; every split has as many rows of one tone as of another."""
    rng = Random(seed)
    seen: dict[str, list[str]] = {}
    unseen: dict[str, list[str]] = {}
    for tone, cues in grammar.CUES.items():
        shuffled = rng.sample(cues, len(cues))
        half = len(shuffled) // 2
        seen[tone], unseen[tone] = shuffled[:half], shuffled[half:]

    splits = {
        "train": _rows(rng, seen, TRAIN_ROWS, held_out=False),
        "test-seen": _rows(rng, seen, TEST_ROWS, held_out=True),
        "test-unseen": _rows(rng, unseen, TEST_ROWS, held_out=True),
    }
    phrases = [row["phrase"] for rows in splits.values() for row in rows]
    assert len(phrases) == len(set(phrases)), "a phrase occurs twice"
    return splits


def _rows(rng: Random, cues: dict[str, list[str]], count: int, *, held_out: bool) -> list[Row]:
    """`count` rows with different phrases, in random order, the tones in equal parts."""
    tone_of: dict[str, str] = {}
    for tone, words in cues.items():
        enough = len(tone_of) + count // len(cues)
        while len(tone_of) < enough:
            tone_of[grammar.phrase(rng, rng.choice(words), held_out=held_out)] = tone
    rows = [{"phrase": phrase, "tone": tone} for phrase, tone in tone_of.items()]
    rng.shuffle(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the phrases of the phi3-emotions example.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the three .jsonl files to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in make_splits(arguments.seed).items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (arguments.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
