"""Rows as a model is asked them, and which of them are kept for choosing a quantization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from finetune_api.data import DataConfig
from finetune_api.evaluators import Evaluator
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.context import Row, StageContext
from finetune_trainer.data import prompt_of, render, split_rows
from finetune_trainer.errors import bad_input
from finetune_trainer.tokenizer import TextTokenizer
from finetune_trainer.tokenizing import text_hash

_VALIDATION_SEED = 0


@dataclass(frozen=True)
class Question:
    """A row as the model is asked it."""

    prompt: str
    reference: str
    special_tokens: bool

    def ids(self, tokenizer: TextTokenizer) -> list[int]:
        """The prompt's tokens, after BOS where the model's texts begin with it."""
        ids = tokenizer.encode(self.prompt).ids
        bos = tokenizer.bos_id if self.special_tokens else None
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


@dataclass(frozen=True)
class RowReader:
    """Reads the rows that an evaluator measures, or with `validation` those that it keeps for choosing by."""

    context: StageContext
    evaluator: Evaluator
    tokenizer: TextTokenizer
    validation: bool = False

    def config(self, name: str) -> DataConfig:
        """The data config of this name."""
        return next(item for item in self.context.document.data if item.name == name)

    def rows(self, name: str) -> list[Row]:
        """Rows of a data config, at most its maxSamples, all of which can be rendered.

        Raises StageFailure where there are none, or where one lacks a column.
        """
        source = self.config(name)
        process = source.pre_process_data_config
        # Where some are kept apart, all have to be looked at; else no more than are measured.
        split = self.evaluator.validation_size is not None
        rows = list(islice(self.context.rows(name), None if split else process.max_samples))
        rendered = render(rows, process, name=name, tokenizer=self.tokenizer)
        hashes = np.array([text_hash(sample.text) for sample in rendered], np.uint64)  # a failure names the row
        if rows and split:
            rows = self._part(rows, hashes)[: process.max_samples]
        if not rows:
            path = f"spec.dataConfigs[name={name}].loadDatasetConfig.dataFiles"
            files = source.load_dataset_config.shown()
            remedy = "Name a file with rows, or leave the metric out."
            raise bad_input(Reason.NO_SAMPLES, problem(path, files, "no rows to measure on", remedy))
        return rows

    def _part(self, rows: Sequence[Row], hashes: npt.NDArray[np.uint64]) -> list[Row]:
        path = f"spec.evaluators[name={self.evaluator.name}].validationSize"
        test, kept = split_rows(hashes, self.evaluator.validation_size or 0, _VALIDATION_SEED, path=path)
        return [rows[index] for index in (kept if self.validation else test)]

    def questions(self, name: str) -> list[Question]:
        """The rows as questions."""
        process = self.config(name).pre_process_data_config
        return [
            Question(
                *prompt_of(row, process, name=name, number=number, tokenizer=self.tokenizer),
                special_tokens=process.add_special_tokens,
            )
            for number, row in enumerate(self.rows(name), 1)
        ]
