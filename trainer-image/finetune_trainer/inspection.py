"""What prepare finds out about a data config: how many samples of how many tokens its rows make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_api.data import DataConfig, PreProcessDataConfig
from finetune_api.job import JobSpec
from finetune_api.lora import LoraConfig
from finetune_api.problems import problem
from finetune_api.stage import DataPin, Reason
from finetune_trainer.context import Row
from finetune_trainer.data import Sample, arrange, read_rows, render, split_rows, tokenize
from finetune_trainer.errors import bad_input
from finetune_trainer.rows import files_path
from finetune_trainer.sources import SourceFile, Sources, fetch_data, files_digest
from finetune_trainer.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Rendered:
    """A data config's rows and their texts, as they are before there is a tokenizer."""

    config: DataConfig
    files: list[SourceFile]
    rows: list[Row]
    samples: list[Sample]

    @property
    def pin(self) -> DataPin:
        """What holds the files fast."""
        size = sum(file.size for file in self.files)
        return DataPin(digest=files_digest(self.files, ordered=True), size=size, rows=len(self.rows))


@dataclass(frozen=True)
class Counts:
    """What rows come to. `samples` are those that are trained on, `learned` the tokens that have a loss."""

    rows: int
    samples: int
    tokens: int
    learned: int
    dropped: int
    duplicates: int
    longest: int
    highest_id: int


def fetch_and_render(config: DataConfig, sources: Sources) -> Rendered:
    """The rows of `config`. Raises StageFailure: DataNotFound, DataInvalid, ColumnNotFound, NoSamples."""
    files = fetch_data(config, sources)
    rows = read_rows([file.path for file in files], name=config.name)
    if not rows:
        uris = ", ".join(config.load_dataset_config.data_files)
        found = problem(files_path(config.name), uris, "there are no rows in it", "Name files that hold rows.")
        raise bad_input(Reason.NO_SAMPLES, found)
    samples = render(rows, config.pre_process_data_config, name=config.name)
    return Rendered(config, [file.found for file in files], rows, samples)


def count(samples: list[Sample], process: PreProcessDataConfig, tokenizer: TextTokenizer) -> Counts:
    """What `samples` come to with `tokenizer`."""
    tokens = tokenize(samples, tokenizer, process)
    arranged = arrange(tokens, process, tokenizer)
    kept = sum(len(item.ids) for item in arranged)
    total = sum(len(item.ids) for item in tokens)
    return Counts(
        rows=len(samples),
        samples=len(arranged),
        tokens=kept,
        learned=sum(sum(item.learn[1:]) for item in arranged),
        dropped=max(0, total - kept) if process.strategy == "join" else len(tokens) - len(arranged),
        duplicates=len(samples) - len({sample.text for sample in samples}),
        longest=max((len(item.ids) for item in tokens), default=0),
        highest_id=max((max(item.ids, default=0) for item in tokens), default=0),
    )


def require_samples(config: DataConfig, counts: Counts, *, rows: str = "rows") -> None:
    """Raises StageFailure (NoSamples) where nothing is left to train on, saying what to change."""
    if counts.samples:
        return
    process = config.pre_process_data_config
    path = f"spec.dataConfigs[name={config.name}].preProcessDataConfig.maxSeqLen"
    total = counts.tokens + counts.dropped if process.strategy == "join" else counts.longest
    if process.strategy == "join":
        message = f"{counts.rows} {rows} are {total} tokens, fewer than one block of maxSeqLen; nothing is left"
        remedy = f"Lower maxSeqLen to at most {total}, give more rows, or use strategy line-by-line."
    else:
        message = f"of {counts.rows} {rows}, the longest with {total} tokens, none is left to learn from"
        remedy = "Check maxSeqLen, dropShortSequences, and that the completion is not cut off."
    raise bad_input(Reason.NO_SAMPLES, problem(path, process.max_seq_len, message, remedy))


def count_split(config: LoraConfig, train: Rendered, tokenizer: TextTokenizer, path: str) -> dict[str, Counts]:
    """What both sides of a pass's evaluation split come to; empty where it has none.

    `path` is the field that asks for the split. Raises StageFailure (NoSamples) where a side has no sample.
    """
    if config.eval_dataset_size is None:
        return {}
    args, process = config.training_args, train.config.pre_process_data_config
    seed = args.seed if args.data_seed is None else args.data_seed
    train_rows, eval_rows = split_rows(train.rows, config.eval_dataset_size, seed, process, path=path)
    found: dict[str, Counts] = {}
    for side, rows in (("train", train_rows), ("eval", eval_rows)):
        found[side] = count(render(rows, process, name=train.config.name), process, tokenizer)
        require_samples(train.config, found[side], rows=f"{side} rows after the split")
    return found


def overlap(spec: JobSpec, config: LoraConfig, data: dict[str, Rendered]) -> dict[str, int]:
    """Data config that is measured with → how many of its rows have a text that `config` trains on."""
    measured = {metric.data_config for evaluator in spec.evaluators for metric in evaluator.metrics}
    measured |= {config.eval_data_config} if config.eval_data_config else set()
    learned = {sample.text for sample in data[config.train_data_config].samples}
    return {
        name: sum(sample.text in learned for sample in data[name].samples)
        for name in sorted(measured - {config.train_data_config})
        if name in data
    }


def files_report(files: list[SourceFile]) -> list[dict[str, Any]]:
    """Files as prepare's report lists them."""
    return [{"name": file.name, "size": file.size, "tag": file.tag} for file in files]
