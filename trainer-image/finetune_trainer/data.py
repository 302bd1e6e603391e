"""Rows → samples of tokens: pure functions, the same for prepare, training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random

from finetune_api.data import PreProcessDataConfig
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.context import Row
from finetune_trainer.errors import bad_input
from finetune_trainer.rows import read_rows
from finetune_trainer.template import Sample, prompt_of, render
from finetune_trainer.tokenizer import Encoding, TextTokenizer

__all__ = ["Sample", "Tokens", "arrange", "prompt_of", "read_rows", "render", "split_rows", "tokenize"]


@dataclass(frozen=True)
class Tokens:
    """A sample of n tokens: `ids` and, for each, whether its prediction is learned; both of length n."""

    ids: list[int]
    learn: list[bool]


def tokenize(samples: Sequence[Sample], tokenizer: TextTokenizer, config: PreProcessDataConfig) -> list[Tokens]:
    """Each sample's tokens, encoded as one text, so that no token is cut at the completion's beginning.

    With `completion_only_loss` a token is learned if any of its characters belongs to the completion. With
    `add_special_tokens` BOS (where the model has it) comes first and EOS last, each once, and EOS is learned.
    Under line-by-line, ids are cut to `max_seq_len`; join cuts the whole stream instead (`arrange`).
    """
    limit = config.max_seq_len if config.strategy == "line-by-line" else None
    encodings = tokenizer.encode_all([sample.text for sample in samples])
    return [
        _tokens(encoding, sample, tokenizer, config, limit) for encoding, sample in zip(encodings, samples, strict=True)
    ]


def _tokens(
    encoding: Encoding, sample: Sample, tokenizer: TextTokenizer, config: PreProcessDataConfig, limit: int | None
) -> Tokens:
    start = sample.completion_start if config.completion_only_loss else 0
    ids = list(encoding.ids)
    learn = [first >= start or end > start for first, end in encoding.offsets]
    if config.add_special_tokens:
        if tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            ids.insert(0, tokenizer.bos_id)
            learn.insert(0, not config.completion_only_loss)
        if tokenizer.eos_id is not None:
            if ids[-1:] != [tokenizer.eos_id]:
                ids.append(tokenizer.eos_id)
                learn.append(True)
            learn[-1] = True
    return Tokens(ids[:limit], learn[:limit])


def arrange(tokens: Sequence[Tokens], config: PreProcessDataConfig, tokenizer: TextTokenizer) -> list[Tokens]:
    """The samples that a model is trained on, at most `max_samples`.

    line-by-line: one per row, without rows that are empty or shorter than wanted (`drop_short_sequences`).
    join: all rows, `joiner` between them, cut into blocks of `max_seq_len`; a last, shorter block is dropped.
    Samples of which no token is learned (a prompt as long as maxSeqLen) are left out in either.
    """
    if config.strategy == "join":
        found = _blocks(tokens, config, tokenizer)
    else:
        shortest = config.max_seq_len if config.drop_short_sequences else 1
        found = [item for item in tokens if len(item.ids) >= shortest]
    # The first token is never predicted, so learning it alone is learning nothing.
    return [item for item in found if any(item.learn[1:])][: config.max_samples]


def _blocks(tokens: Sequence[Tokens], config: PreProcessDataConfig, tokenizer: TextTokenizer) -> list[Tokens]:
    between = tokenizer.encode(config.joiner).ids if config.joiner else []
    joiner = Tokens(between, [not config.completion_only_loss] * len(between))
    stream = list(chain.from_iterable((joiner, item) for item in tokens))[1:]
    ids = list(chain.from_iterable(item.ids for item in stream))
    learn = list(chain.from_iterable(item.learn for item in stream))
    size = config.max_seq_len
    return [
        Tokens(ids[start : start + size], learn[start : start + size]) for start in range(0, len(ids) - size + 1, size)
    ]


def split_rows(
    rows: Sequence[Row],
    size: float,
    seed: int,
    config: PreProcessDataConfig,
    *,
    path: str = "spec.passes[*].config.evalDatasetSize",
) -> tuple[list[Row], list[Row]]:
    """(train, eval): `size` rows, or that share of them where it is below 1, chosen by `seed` for evaluation.

    Rows with equal rendered texts stay on one side, so that nothing measured was learned; eval may therefore
    hold a few rows fewer. Both sides keep the rows' order. Raises StageFailure (NoSamples) where a side would
    be empty; `path` is the field it names.
    """
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(render(rows, config)):
        groups.setdefault(sample.text, []).append(index)
    wanted = max(1, round(len(rows) * size)) if size < 1 else int(size)
    if wanted >= len(rows) or len(groups) < 2:
        message = f"of {len(rows)} rows ({len(groups)} different) none would be left to learn from"
        raise bad_input(Reason.NO_SAMPLES, problem(path, size, message, "Give more rows, or split fewer off."))
    chosen = _choose(list(groups.values()), wanted, Random(seed))  # noqa: S311  (a split, not a secret)
    train = [row for index, row in enumerate(rows) if index not in chosen]
    return train, [row for index, row in enumerate(rows) if index in chosen]


def _choose(groups: list[list[int]], wanted: int, random: Random) -> set[int]:
    """Indexes of whole groups, together at most `wanted`; the smallest group where none fits."""
    random.shuffle(groups)
    chosen: set[int] = set()
    for group in groups:
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    smallest: list[int] = min(groups, key=len)
    return chosen or set(smallest)
