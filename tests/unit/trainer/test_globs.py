"""Wildcards in the names of files."""

from __future__ import annotations

import json

import pytest

from finetune_trainer.errors import StageFailure
from finetune_trainer.globs import literal_folder, matching

NAMES = ["a.csv", "b.csv", "c.json", "x/a.csv", "x/y/a.csv", "x/[1].csv", "x/1.csv"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", ["a.csv", "b.csv"]),
        ("[!a].csv", ["b.csv"]),
        ("[a-c].*", ["a.csv", "b.csv", "c.json"]),
        ("?/*.csv", ["x/1.csv", "x/[1].csv", "x/a.csv"]),
        ("**/a.csv", ["a.csv", "x/a.csv", "x/y/a.csv"]),
        ("x/**", ["x/1.csv", "x/[1].csv", "x/a.csv", "x/y/a.csv"]),
        ("x/[[]1].csv", ["x/[1].csv"]),
        ("x.*", []),
    ],
)
def test_what_a_pattern_stands_for(pattern: str, found: list[str]) -> None:
    assert matching(pattern, NAMES) == found


def test_the_folder_above_the_wildcards() -> None:
    assert literal_folder("s3://bucket/a/b*/c?") == "s3://bucket/a"
    assert literal_folder("s3://bucket/*") == "s3://bucket"


def test_wildcards_in_the_bucket(world) -> None:
    load = world.spec["dataConfigs"][0]["loadDatasetConfig"]
    for index in (2, 1):
        row = {"phrase": f"number {index}", "tone": "joy"}
        world.s3.put(f"{world.prefix}/parts/{index}.jsonl", json.dumps(row).encode())
    load["dataFiles"] = [f"{world.prefix}/parts/*.jsonl"]
    assert world.prepare().prepared.pins.data["train"].rows == 2
    names = [file["name"] for file in world.report()["data"]["train"]["files"]]
    assert [name.rpartition("/")[2] for name in names] == ["1.jsonl", "2.jsonl"]
    load["dataFiles"] = [f"{world.prefix}/parts/*.csv"]
    with pytest.raises(StageFailure, match="no object has such a name"):
        world.prepare()


def test_wildcards_in_volumes(world, tmp_path) -> None:
    world.sources = tmp_path / "sources"
    volume = world.sources / "configmap" / "rows"
    (volume / "..data").mkdir(parents=True)
    for name in ("a.json", "b.json"):
        (volume / "..data" / name).write_text(json.dumps([{"phrase": name, "tone": "joy"}]))
        (volume / name).symlink_to(f"..data/{name}")
    world.spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"] = ["configMap://rows/*.json"]
    assert world.prepare().prepared.pins.data["train"].rows == 2
    (world.sources / "pvc/claim/deep").mkdir(parents=True)
    (world.sources / "pvc/claim/deep/a.json").write_text(json.dumps([{"phrase": "x", "tone": "joy"}] * 3))
    world.spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"] = ["pvc://claim/**/*.json"]
    assert world.prepare().prepared.pins.data["train"].rows == 3
