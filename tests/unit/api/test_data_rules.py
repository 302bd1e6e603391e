"""What is wrong with a data config, said by field."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import rules
from finetune_api.crd import crd

from .specs import Spec, job_spec

FILES = {"dataFiles": ["s3://data/train.jsonl"]}
TEXT = {"textCols": ["phrase", "tone"]}


def spec(load: dict[str, Any], process: dict[str, Any] | None = None) -> Spec:
    result = job_spec()
    result["dataConfigs"][0] |= {"loadDatasetConfig": load, "preProcessDataConfig": TEXT | (process or {})}
    return result


@pytest.mark.parametrize(
    ("load", "process"),
    [
        ({"dataFiles": ["s3://data/*/part-[0-9].jsonl.gz", "pvc://claim/**"]}, {}),
        ({"splitFiles": [{"split": "a", "files": ["s3://d/x"]}], "split": "a[:50%]+a[-3:]"}, {}),
        ({"dataName": "acme/tones", "subset": "en", "revision": "v1", "split": "anything[:3]"}, {}),
        ({"dataName": "acme/tones", "dataFiles": ["data/a.csv"]}, {}),
        (FILES | {"dataName": "parquet", "colFilters": {"lang": "en"}}, {}),
        (FILES, {"chatTemplate": "tokenizer", "completionOnlyLoss": True, "textCols": ["text"]}),
        (FILES, {"strategy": "join-sliding-window", "stride": 512}),
        (FILES, {"strategy": "join-random", "maxSamples": 1, "randomSeed": 0}),
    ],
)
def test_right_data_configs(load: dict[str, Any], process: dict[str, Any]) -> None:
    assert rules.check(spec(load, process))[1] == []


LOAD, PROCESS = "loadDatasetConfig", "preProcessDataConfig"
WRONG = [
    ({}, {}, f"{LOAD}.dataFiles", "name files: dataFiles or splitFiles"),
    (
        FILES | {"splitFiles": [{"split": "train", "files": ["s3://d/x"]}]},
        {},
        f"{LOAD}.splitFiles",
        "give dataFiles or splitFiles, not both",
    ),
    (
        {"splitFiles": [{"split": "train", "files": ["s3://d/x"]}] * 2},
        {},
        f"{LOAD}.splitFiles",
        "this split is there twice",
    ),
    ({"dataFiles": ["data/a.csv"]}, {}, f"{LOAD}.dataFiles", "not a URI"),
    (
        FILES | {"dataName": "acme/tones"},
        {},
        f"{LOAD}.dataFiles",
        "dataName acme/tones means paths in its repository",
    ),
    (
        {"dataFiles": ["s3://buck*/x"]},
        {},
        f"{LOAD}.dataFiles",
        "wildcards stand for files, not for the place they are in",
    ),
    (FILES | {"subset": "en"}, {}, f"{LOAD}.subset", "only a hub data set has one"),
    (FILES | {"revision": "v1"}, {}, f"{LOAD}.revision", "only a hub data set has one"),
    (FILES | {"split": "train[:120%]"}, {}, f"{LOAD}.split", "'train[:120%]' has a boundary beyond 100 %"),
    (FILES | {"split": "test"}, {}, f"{LOAD}.split", "no files are given for this split"),
    (FILES, {"strategy": "join-sliding-window"}, f"{PROCESS}.stride", "strategy join-sliding-window needs stride"),
    (FILES, {"stride": 8}, f"{PROCESS}.stride", "does nothing under pack"),
    (
        FILES,
        {"strategy": "join-sliding-window", "stride": 9, "maxSeqLen": 8},
        f"{PROCESS}.stride",
        "greater than maxSeqLen, so tokens would be left out",
    ),
    (
        FILES,
        {"strategy": "join-random", "randomSeed": 1},
        f"{PROCESS}.strategy",
        "random strategies need maxSamples and randomSeed",
    ),
    (FILES, {"randomSeed": 1}, f"{PROCESS}.randomSeed", "does nothing under pack"),
    (FILES, {"dropShortSequences": True}, f"{PROCESS}.dropShortSequences", "does nothing under pack"),
    (
        FILES,
        {"paddingSide": "left", "useAttentionMask": False},
        f"{PROCESS}.paddingSide",
        "without a mask the model would read the padding",
    ),
    (
        FILES,
        {"chatTemplate": "tokenizer", "textTemplate": "{phrase} {tone}"},
        f"{PROCESS}.textTemplate",
        "give chatTemplate or textTemplate, not both",
    ),
]


@pytest.mark.parametrize(("load", "process", "path", "message"), WRONG, ids=[item[3] for item in WRONG])
def test_wrong_data_configs(load: dict[str, Any], process: dict[str, Any], path: str, message: str) -> None:
    found = rules.check(spec(load, process))[1]
    assert [(item.path, item.message) for item in found] == [(f"spec.dataConfigs[0].{path}", message)]
    assert found[0].remedy


@pytest.mark.parametrize(
    ("load", "path"),
    [
        ({"dataName": "xml", **FILES}, "dataName"),
        ({"dataName": "a/b/c"}, "dataName"),
        ({"dataFiles": ["http://host/x"]}, "dataFiles[0]"),
        (FILES | {"split": "train["}, "split"),
        (FILES | {"colFilters": {"a": 1}}, "colFilters.a"),
    ],
)
def test_what_the_schema_refuses(load: dict[str, Any], path: str) -> None:
    assert {item.path for item in rules.check(spec(load))[1]} == {f"spec.dataConfigs[0].loadDatasetConfig.{path}"}


def test_the_crd_says_what_cel_can() -> None:
    properties = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    item = properties["dataConfigs"]["items"]["properties"]
    said = {rule["message"] for half in (LOAD, PROCESS) for rule in item[half]["x-kubernetes-validations"]}
    assert said <= {message for *_, message in WRONG}
    assert len(said) == 5
