"""What prepare finds out about a data config: how many samples of how many tokens its rows make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_api.data import DataConfig, PreProcessDataConfig
from finetune_api.job import JobSpec
from finetune_api.lora import LoraConfig
from finetune_api.problems import problem
from finetune_api.stage import DataPin, Reason
from finetune_trainer.data import Sample, TokenRows, arrange, render, split_rows, tokenize
from finetune_trainer.errors import bad_input
from finetune_trainer.kept_tokens import Rows
from finetune_trainer.rows import FileRows
from finetune_trainer.sources import DataFile, data_digest, files_path
from finetune_trainer.tokenizer import TextTokenizer

_SHOWN_SAMPLES = 2


@dataclass(frozen=True)
class Fetched:
    """A data config's files, here."""

    config: DataConfig
    files: list[DataFile]

    @property
    def digest(self) -> str:
        """What holds the files fast."""
        return data_digest(self.files)

    def samples(self, tokenizer: TextTokenizer | None) -> Iterator[Sample]:
        """The rendered rows. Raises StageFailure: DataInvalid, ColumnNotFound, NoSamples."""
        config, number = self.config, 0
        rows = FileRows(config, self.files)
        for sample in render(rows, config.pre_process_data_config, name=config.name, tokenizer=tokenizer):
            number += 1
            yield sample
        if not number:
            shown = config.load_dataset_config.shown()
            message = "there are no rows in it that split and colFilters take"
            remedy = "Name files that hold rows, or take others of them."
            raise bad_input(Reason.NO_SAMPLES, problem(files_path(config.name), shown, message, remedy))


@dataclass(frozen=True)
class Read:
    """A data config's rows as tokens, and the first few of them as texts; `made` says that none were kept."""

    config: DataConfig
    files: list[DataFile]
    tokens: TokenRows
    first: list[Sample]
    made: bool = True

    def rows(self, tokenizer: TextTokenizer) -> Rows:
        """What the tokens are of."""
        return Rows(self.config, data_digest(self.files), tokenizer)

    @property
    def pin(self) -> DataPin:
        """What holds the data fast."""
        size = sum(file.found.size for file in self.files)
        return DataPin(digest=data_digest(self.files), size=size, rows=len(self.tokens))


@dataclass(frozen=True)
class Counts:
    """What rows come to. `samples` are those that are trained on (blocks, where rows share them), `tokens` theirs,
    `learned` the tokens of them that have a loss; `dropped_tokens` are in no sample, `duplicates` rows that say what
    an earlier one says."""

    rows: int
    samples: int
    tokens: int
    learned: int
    dropped_tokens: int
    duplicates: int
    longest: int
    highest_id: int


def read(fetched: Fetched, tokenizer: TextTokenizer, folder: Path, kept: TokenRows | None = None) -> Read:
    """The rows of `fetched` as tokens, those that were `kept` or, in `folder`, new ones.

    Raises StageFailure as `Fetched.samples`.
    """
    first: list[Sample] = []
    if kept is not None:
        first.extend(islice(fetched.samples(tokenizer), _SHOWN_SAMPLES))
        return Read(fetched.config, fetched.files, kept, first, made=False)
    samples = _noting(fetched.samples(tokenizer), first)
    tokens = tokenize(samples, tokenizer, fetched.config.pre_process_data_config, folder)
    return Read(fetched.config, fetched.files, tokens, first)


def _noting(samples: Iterable[Sample], first: list[Sample]) -> Iterator[Sample]:
    for sample in samples:
        if len(first) < _SHOWN_SAMPLES:
            first.append(sample)
        yield sample


def count(
    tokens: TokenRows,
    process: PreProcessDataConfig,
    tokenizer: TextTokenizer,
    chosen: npt.NDArray[np.int64] | None = None,
) -> Counts:
    """What the rows `chosen` (all, where None) come to."""
    chosen = np.arange(len(tokens)) if chosen is None else chosen
    lengths = tokens.lengths[chosen]
    totals = arrange(tokens, process, tokenizer, chosen).totals()
    return Counts(
        rows=len(chosen),
        samples=totals.samples,
        tokens=totals.tokens,
        learned=totals.learned,
        dropped_tokens=max(0, int(lengths.sum()) - totals.tokens),
        duplicates=len(chosen) - len(np.unique(tokens.hashes[chosen])),
        longest=int(lengths.max(initial=0)),
        highest_id=tokens.highest_id,
    )


def require_samples(config: DataConfig, counts: Counts, *, rows: str = "rows") -> None:
    """Raises StageFailure (NoSamples) where nothing is left to train on, saying what to change."""
    if counts.samples:
        return
    process = config.pre_process_data_config
    path = f"spec.dataConfigs[name={config.name}].preProcessDataConfig.maxSeqLen"
    if process.joins:
        total = counts.tokens + counts.dropped_tokens
        message = f"{counts.rows} {rows} are {total} tokens, fewer than one block of maxSeqLen; nothing is left"
        remedy = f"Lower maxSeqLen to at most {total}, give more rows, or use strategy line-by-line."
    else:
        message = f"of {counts.rows} {rows}, the longest with {counts.longest} tokens, none is left to learn from"
        remedy = "Check maxSeqLen, dropShortSequences, and that the completion is not cut off."
    raise bad_input(Reason.NO_SAMPLES, problem(path, process.max_seq_len, message, remedy))


def count_split(config: LoraConfig, train: Read, tokenizer: TextTokenizer, path: str) -> dict[str, Counts]:
    """What both sides of a pass's evaluation split come to; empty where it has none.

    `path` is the field that asks for the split. Raises StageFailure (NoSamples) where a side has no sample.
    """
    if config.eval_dataset_size is None:
        return {}
    args, process = config.training_args, train.config.pre_process_data_config
    seed = args.seed if args.data_seed is None else args.data_seed
    sides = split_rows(train.tokens.hashes, config.eval_dataset_size, seed, path=path)
    found: dict[str, Counts] = {}
    for side, chosen in zip(("train", "eval"), sides, strict=True):
        found[side] = count(train.tokens, process, tokenizer, chosen)
        require_samples(train.config, found[side], rows=f"{side} rows after the split")
    return found


def overlap(spec: JobSpec, config: LoraConfig, data: dict[str, Read]) -> dict[str, int]:
    """Data config that is measured with → how many of its rows have a text that `config` trains on."""
    measured = {metric.data_config for evaluator in spec.evaluators for metric in evaluator.metrics}
    measured |= {config.eval_data_config} if config.eval_data_config else set()
    learned = data[config.train_data_config].tokens.hashes
    return {
        name: int(np.isin(data[name].tokens.hashes, learned).sum())
        for name in sorted(measured - {config.train_data_config})
        if name in data
    }


def files_report(files: list[Any]) -> list[dict[str, Any]]:
    """Files as prepare's report lists them."""
    return [{"name": file.name, "size": file.size, "tag": file.tag} for file in files]
