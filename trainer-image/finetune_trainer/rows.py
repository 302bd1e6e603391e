"""A data config's rows: those of its files that `split` and `colFilters` take, read one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from finetune_api.data import FORMATS, DataConfig
from finetune_api.problems import problem
from finetune_api.splits import Slice, parse_split
from finetune_api.stage import Reason
from finetune_trainer.context import Row
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.formats import UnreadableError, format_of, read_file
from finetune_trainer.sources import DataFile, files_path


@dataclass(frozen=True)
class FileRows:
    """The rows of `files` that `config` takes. Each iteration reads the files again and holds a few rows at a time.

    Iterating raises StageFailure (DataInvalid) naming the file, the line or item, and what is wrong with it.
    """

    config: DataConfig
    files: Sequence[DataFile]

    def __iter__(self) -> Iterator[Row]:
        filters = self.config.load_dataset_config.col_filters
        for part in parse_split(self.config.load_dataset_config.split):
            for row in self._sliced(part):
                if all(shown(row.get(column)) == value for column, value in filters.items()):
                    yield row

    def _sliced(self, part: Slice) -> Iterator[Row]:
        files = [file for file in self.files if file.split == part.split]
        if not part.needs_count:
            return islice(self._read(files), part.start, part.stop)
        try:
            start, stop = part.bounds(sum(1 for _ in self._read(files)))
        except ValueError as error:
            path = f"spec.dataConfigs[name={self.config.name}].loadDatasetConfig.split"
            found = problem(path, self.config.load_dataset_config.split, str(error), "Slice by rows, or give more.")
            raise bad_input(Reason.NO_SAMPLES, found) from error
        return islice(self._read(files), start, max(start, stop))

    def _read(self, files: Sequence[DataFile]) -> Iterator[Row]:
        for file in files:
            try:
                yield from read_file(file.path, self._format(file))
            except UnreadableError as error:
                raise _invalid(self.config.name, file, error) from error

    def _format(self, file: DataFile) -> str:
        name = self.config.load_dataset_config.data_name
        return name if name in FORMATS else format_of(file.found.name) or "json"


def shown(value: object) -> str:
    """A value as text: strings as they are, all else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _invalid(name: str, file: DataFile, error: UnreadableError) -> StageFailure:
    found = problem(files_path(name), file.path.name, error.message, error.remedy)
    return bad_input(Reason.DATA_INVALID, found)
