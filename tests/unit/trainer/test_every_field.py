"""One table over all that can be said of data and of training: a field, two settings, and what differs between them.

What is seen is the least that shows it: the rows that are read, the samples of tokens made of them, the batches, the
order of steps, an optimizer's settings, what a training logged or learned, a pod's manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from finetune_api.data import DataConfig, LoadDatasetConfig, PreProcessDataConfig, SplitFiles
from finetune_api.extra_args import ExtraArgs
from finetune_api.training import LrSchedulerKwargs, TrainingArgs

from .fields import Case, Fields
from .fields_of_data import DATA, EXACTLY, LOAD, PROCESS, SPLIT_FILES, made
from .fields_of_training import EXTRA_ARGS, SCHEDULE, TRAINING
from .test_extra_args import own_arithmetic  # noqa: F401  (a fixture)
from .test_hub import hub, sources  # noqa: F401  (fixtures)
from .test_hub_data import data_set  # noqa: F401  (a fixture)


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Any]:
    """place() -> files on a volume, and a hub; `here` is a folder to write in."""

    def make() -> Any:
        claim = tmp_path / "sources/pvc/c"
        claim.mkdir(parents=True, exist_ok=True)
        (claim / "a.json").write_text('{"text": "1", "tone": "joy"}\n{"text": "2", "tone": "fear"}\n')
        (claim / "b.json").write_text('{"text": "3", "tone": "joy"}\n')
        return SimpleNamespace(here=tmp_path, volumes=tmp_path / "sources", fixture=request.getfixturevalue)

    return make


TABLE: dict[type[BaseModel], dict[str, Case]] = {
    DataConfig: DATA,
    LoadDatasetConfig: LOAD,
    SplitFiles: SPLIT_FILES,
    PreProcessDataConfig: PROCESS,
    TrainingArgs: TRAINING,
    LrSchedulerKwargs: SCHEDULE,
    ExtraArgs: EXTRA_ARGS,
}


@pytest.mark.parametrize("model", TABLE, ids=lambda model: model.__name__)
def test_no_field_is_forgotten(model: type[BaseModel]) -> None:
    """A field that can say one thing only makes no difference; all others are in the table, and nothing else is."""
    # Arguments of transformers are written as there.
    own_names = model is not ExtraArgs
    said = {str(info.alias) if own_names else name: info.annotation for name, info in model.model_fields.items()}
    single = {name for name, kind in said.items() if get_origin(kind) is Literal and len(get_args(kind)) == 1}
    assert TABLE[model].keys() == said.keys() - single
    assert not single or (model, single) == (DataConfig, {"type"})


ALL = [
    pytest.param(case, id=f"{model.__name__}.{field}")
    for model, fields in TABLE.items()
    for field, case in fields.items()
]


@pytest.mark.parametrize("case", ALL)
def test_a_field_makes_a_difference(case: Case, place: Callable[[], Any]) -> None:
    here = place()
    first, again, other = case.seen(here, **case.one), case.seen(here, **case.one), case.seen(here, **case.other)
    assert first == again, "the same settings show the same"
    assert first != other


@pytest.mark.parametrize(("process", "expected"), EXACTLY)
def test_samples_are_letter_by_letter_what_is_written(process: Fields, expected: list[str]) -> None:
    assert made(**process) == expected
