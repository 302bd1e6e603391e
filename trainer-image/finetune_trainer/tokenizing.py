"""Texts → tokens: encoded by the tokenizer's own threads while the next rows are read and rendered."""

from __future__ import annotations

import hashlib
import tempfile
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

import numpy as np

from finetune_api.data import PreProcessDataConfig
from finetune_trainer.sample import Sample
from finetune_trainer.tokenizer import Encoding, TextTokenizer
from finetune_trainer.tokens import Flags, Ids, TokenRows, TokenWriter

# Texts that are encoded together: so many, or so many characters, whichever is reached first.
_TEXTS_TOGETHER = 1024
_CHARACTERS_TOGETHER = 1 << 21
# So many such batches are being encoded or wait for it, while the next one is rendered.
_BATCHES_AHEAD = 2
# A chat's own end token stands before at most so many tokens of white space.
_TAIL = 8
Range = tuple[int, int]


@dataclass(frozen=True)
class _Row:
    """A text's tokens, and the half-open ranges of them that are learned, in order."""

    ids: list[int]
    learned: list[Range]

    def positions(self, limit: int) -> int:
        """How many of the first `limit` positions have a loss: nothing predicts the first."""
        return sum(max(0, min(stop, limit) - max(start, 1)) for start, stop in self.learned)


def tokenize(
    samples: Iterable[Sample],
    tokenizer: TextTokenizer,
    config: PreProcessDataConfig,
    folder: Path | None = None,
) -> TokenRows:
    """Each sample's tokens, encoded as one text, so that no token is cut at the completion's beginning.

    With `completion_only_loss` a token is learned if any of its characters belongs to the completion. With
    `add_special_tokens` BOS (where the model has it) comes first and EOS last, each once, and EOS is learned.
    Nothing is cut here. The files are in a new folder of `folder`, where other processes may read them too; without
    one they are gone with the result.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="tokens-") as scratch:
            return tokenize(samples, tokenizer, config, Path(scratch))
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(dir=folder))
    with TokenWriter(own) as writer:
        for batch, encodings in _encoded(_batches(samples), tokenizer, offsets=config.completion_only_loss):
            rows = [_row(*pair, tokenizer, config) for pair in zip(encodings, batch, strict=True)]
            lengths = [len(row.ids) for row in rows]
            learned = [row.positions(config.max_seq_len) for row in rows]
            writer.add(*_flat(rows, lengths), lengths, learned, [text_hash(item.text) for item in batch])
    return TokenRows.of(own)


def _encoded(
    batches: Iterable[list[Sample]], tokenizer: TextTokenizer, *, offsets: bool
) -> Iterator[tuple[list[Sample], list[Encoding]]]:
    """Each batch with its encodings, in order. The tokenizer does not hold the interpreter while it encodes."""

    def encode(batch: list[Sample]) -> list[Encoding]:
        return tokenizer.encode_all([item.text for item in batch], offsets=offsets)

    ahead: deque[tuple[list[Sample], Future[list[Encoding]]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="encoding") as encoder:
        for batch in batches:
            ahead.append((batch, encoder.submit(encode, batch)))
            if len(ahead) > _BATCHES_AHEAD:
                done, encodings = ahead.popleft()
                yield done, encodings.result()
        while ahead:
            done, encodings = ahead.popleft()
            yield done, encodings.result()


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    characters = 0
    for sample in samples:
        batch.append(sample)
        characters += len(sample.text)
        if len(batch) == _TEXTS_TOGETHER or characters >= _CHARACTERS_TOGETHER:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _row(encoding: Encoding, sample: Sample, tokenizer: TextTokenizer, config: PreProcessDataConfig) -> _Row:
    ids = encoding.ids
    learned = _learned(encoding, sample) if config.completion_only_loss else [(0, len(ids))]
    if not config.add_special_tokens:
        return _Row(ids, learned)
    if tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        ids = [tokenizer.bos_id, *ids]
        learned = [(start + 1, stop + 1) for start, stop in learned]
        if not config.completion_only_loss:
            learned = [(0, len(ids))]
    if tokenizer.eos_id is None or (sample.ends_itself and not tokenizer.end_ids.isdisjoint(ids[-_TAIL:])):
        return _Row(ids, learned)
    if ids[-1:] != [tokenizer.eos_id]:
        ids = [*ids, tokenizer.eos_id]
    if not learned or learned[-1][1] < len(ids):
        learned = [*learned, (len(ids) - 1, len(ids))]
    return _Row(ids, learned)


def _learned(encoding: Encoding, sample: Sample) -> list[Range]:
    """The tokens of which a character is one that is learned; both ends of tokens only ever go forward in a text."""
    offsets = encoding.offsets or ()
    places = range(len(offsets))

    def reaches(character: int) -> int:
        """The first token that ends after `character`, or begins there."""
        return bisect_left(places, True, key=lambda at: offsets[at][1] > character or offsets[at][0] >= character)

    def begins(character: int) -> int:
        """The first token that begins at `character` or after it."""
        return bisect_left(places, character, key=lambda at: offsets[at][0])

    found: list[Range] = []
    for start, stop in sample.learned():
        first = max(reaches(start), found[-1][1] if found else 0)
        last = len(places) if stop == len(sample.text) else begins(stop)
        if first < last:
            found.append((first, last))
    return found


def _flat(rows: Sequence[_Row], lengths: Sequence[int]) -> tuple[Ids, Flags]:
    """The ids of `rows`, one after the other, and whether each is learned."""
    starts = list(accumulate(lengths, initial=0))
    ids = np.fromiter(chain.from_iterable(row.ids for row in rows), np.int32, starts[-1])
    flags = np.zeros(starts[-1], np.bool_)
    for start, row in zip(starts, rows, strict=False):
        for first, last in row.learned:
            flags[start + first : start + last] = True
    return ids, flags


def text_hash(text: str) -> int:
    """64 bits of the text's digest, by which equal texts are found without holding them."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
