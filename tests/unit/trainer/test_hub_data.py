"""Data sets of the hub, against a hub of our own on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.data import DataConfig
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.hub_data import card_splits, splits_by_name
from finetune_trainer.rows import FileRows
from finetune_trainer.sources import Sources, fetch_data

from .test_hub import COMMIT, TOKEN, hub, sources  # noqa: F401  (fixtures)
from .test_rows import as_csv, as_parquet

CARD = """---
license: mit
configs:
- config_name: en
  default: true
  data_files:
  - split: train
    path: ["en/a.csv", "en/b*.csv"]
  - split: test
    path: en/test.csv
- config_name: de
  data_dir: de
  data_files: "*.parquet"
---
# Tones
"""


def rows(text: str) -> list[dict[str, str]]:
    return [{"text": letter} for letter in text]


@pytest.fixture
def data_set(hub, tmp_path) -> Path:  # noqa: F811
    hub.folder = tmp_path / "data-set"
    (hub.folder / "en").mkdir(parents=True)
    (hub.folder / "de").mkdir()
    (hub.folder / "README.md").write_text(CARD)
    (hub.folder / "tones.py").write_text("raise SystemExit('run')")
    for name, text in {"a": "12", "b1": "3", "b2": "4", "test": "9"}.items():
        (hub.folder / "en" / f"{name}.csv").write_bytes(as_csv(rows(text)))
    (hub.folder / "de" / "x.parquet").write_bytes(as_parquet(rows("5678")))
    return hub.folder


def read(sources: Sources, commit: str | None = None, **load: Any) -> str:  # noqa: F811
    config = DataConfig.model_validate({"name": "d", "loadDatasetConfig": {"dataName": "acme/tiny", **load}})
    files = fetch_data(config, sources, commit=commit)
    assert {file.commit for file in files} == {COMMIT}
    return "".join(row["text"] for row in FileRows(config, files))


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({}, "1234"),
        ({"split": "test+train[:1]"}, "91"),
        ({"subset": "de"}, "5678"),
        ({"subset": "de", "split": "train[50%:]"}, "78"),
        ({"dataFiles": ["en/b*.csv"]}, "34"),
        ({"splitFiles": [{"split": "mine", "files": ["**/test.csv"]}], "split": "mine"}, "9"),
        ({"revision": COMMIT}, "1234"),
    ],
)
def test_the_card_says_which_files_a_split_has(data_set, sources, load, expected) -> None:  # noqa: F811
    assert read(sources, **load) == expected


@pytest.mark.parametrize(
    ("load", "field", "says"),
    [
        ({"dataName": "acme/other"}, "dataName", "no such data set"),
        ({"revision": "v9"}, "revision", "no such revision"),
        ({"subset": "fr"}, "subset", "no such subset"),
        ({"split": "validation"}, "split", "no such split"),
    ],
)
def test_what_is_not_there_is_named(data_set, sources, load, field, says) -> None:  # noqa: F811
    with pytest.raises(StageFailure, match=says) as caught:
        read(sources, **load)
    assert caught.value.reason is Reason.DATA_NOT_FOUND
    assert caught.value.problems[0].path == f"spec.dataConfigs[name=d].loadDatasetConfig.{field}"


def test_a_gate_needs_the_token(data_set, hub, sources, tmp_path) -> None:  # noqa: F811
    hub.gated = True
    with pytest.raises(StageFailure, match="gated") as caught:
        read(sources)
    assert caught.value.reason is Reason.ACCESS_DENIED
    (tmp_path / "token").write_text(TOKEN)
    with_token = Sources(sources.connection, sources.scratch, hub_token=tmp_path / "token")
    assert read(with_token) == "1234"


def test_a_script_alone_is_not_run(data_set, sources) -> None:  # noqa: F811
    for path in sorted(data_set.rglob("*")):
        if path.is_file() and path.suffix != ".py":
            path.unlink()
    with pytest.raises(StageFailure, match="script is never run"):
        read(sources)


def test_a_file_that_came_otherwise_is_refused(data_set, hub, sources, monkeypatch) -> None:  # noqa: F811
    told = list(hub.files())
    monkeypatch.setattr(hub, "files", lambda: iter([(*item[:3], "0" * 64 if item[3] else None) for item in told]))
    with pytest.raises(StageFailure, match="sha256"):
        read(sources, subset="de")


def test_names_tell_splits_where_there_is_no_card() -> None:
    shards = [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/extra-00000-of-00001.parquet",
    ]
    assert splits_by_name(shards) == {"train": shards[:2], "extra": shards[2:]}
    assert splits_by_name(["my_dev.csv", "training.csv", "LICENSE"]) == {
        "validation": ["my_dev.csv"],
        "train": ["training.csv"],
    }
    assert splits_by_name(["test/a.jsonl.gz", "train/a.jsonl"]) == {
        "test": ["test/a.jsonl.gz"],
        "train": ["train/a.jsonl"],
    }
    assert splits_by_name(["contest.csv", "b.csv"]) == {"train": ["b.csv", "contest.csv"]}


def test_cards_in_every_form() -> None:
    config = DataConfig.model_validate({"name": "d", "loadDatasetConfig": {"dataName": "acme/tiny"}})

    def splits(**fields: Any) -> dict[str, list[str]]:
        return card_splits({"configs": [{"config_name": "default", **fields}]}, None, config)

    assert splits(data_files="a.csv") == {"train": ["a.csv"]}
    assert splits(data_files=["a.csv", "b.csv"]) == {"train": ["a.csv", "b.csv"]}
    assert splits(data_dir="x") == {"train": ["x/**"]}
    assert splits() == {}
    assert card_splits({}, None, config) == {}
    two = {"configs": [{"config_name": "a"}, {"config_name": "b"}]}
    with pytest.raises(StageFailure, match="several subsets"):
        card_splits(two, None, config)


def test_the_commit_is_pinned_for_the_stages_after(data_set, hub, world) -> None:  # noqa: F811
    from finetune_trainer.fetch import fetch_rows

    world.spec["dataConfigs"][0] = {
        "name": "train",
        "loadDatasetConfig": {"dataName": "acme/tiny"},
        "preProcessDataConfig": {"textCols": ["text"]},
    }
    pins = world.prepare().prepared.pins
    document = world.prepare_document(pins=pins)
    assert [row["text"] for row in fetch_rows(world.place(document), "train")] == list("1234")
    [key] = world.s3.keys(f"{world.store}/data")
    assert json.loads(world.s3.get(f"{world.store}/data/{key}")) == {"commit": COMMIT}
    assert key == f"{pins.data['train'].digest}.json"
    (data_set / "en/a.csv").write_bytes(as_csv(rows("77")))
    with pytest.raises(StageFailure) as caught:
        fetch_rows(world.place(document), "train")
    assert caught.value.reason is Reason.INPUT_CHANGED
