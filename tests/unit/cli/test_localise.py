"""Local paths and open storage → what the local cluster can run, everything replaced being said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api import rules
from finetune_cli.errors import CliError, ExitCode
from finetune_cli.localise import PLACEHOLDER_ENDPOINT, LocalStorage, localise

FIELDS = ["inputModel", "dataConfigs", "systems", "storage", "passes"]
INNER = ["modelPath", "loadDatasetConfig", "dataFiles", "resources", "nvidia.com/gpu"]
HOME = LocalStorage("s3://finetune", "http://127.0.0.1:4711", "finetune-storage")


def job(**spec: Any) -> dict[str, Any]:
    """A FinetuneJob whose inputs are local paths; `spec` replaces parts of its spec."""
    parts: dict[str, Any] = {
        "inputModel": {"modelPath": "./base"},
        "dataConfigs": [
            {
                "name": "train",
                "loadDatasetConfig": {"dataFiles": ["data/train.jsonl"]},
                "preProcessDataConfig": {"textCols": ["phrase", "tone"], "textTemplate": "{phrase}: {tone}"},
            }
        ],
        "passes": [{"name": "lora", "type": "LoRA", "config": {"trainDataConfig": "train"}}],
    }
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FinetuneJob",
        "metadata": {"name": "tones"},
        "spec": {**parts, **spec},
    }


def test_local_paths_become_objects_and_the_job_becomes_valid(folder: Path) -> None:
    ready = localise(job(), folder, HOME, cpu=False)
    spec = ready.job["spec"]
    assert spec["inputModel"]["modelPath"] == "s3://finetune/inputs/default/tones/model/base"
    assert spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"] == [
        "s3://finetune/inputs/default/tones/train/0/train.jsonl"
    ]
    assert {upload.source for upload in ready.uploads} == {folder / "base", folder / "data/train.jsonl"}
    assert {upload.uri for upload in ready.uploads} == {
        spec["inputModel"]["modelPath"],
        spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"][0],
    }
    assert spec["storage"]["endpoint"] == HOME.endpoint
    assert rules.check(spec)[1] == []
    assert len(ready.notes) == 3


def test_an_adapter_may_be_local_too(folder: Path) -> None:
    ready = localise(job(inputModel={"modelPath": "team/base", "adapterPath": "./base"}), folder, HOME, cpu=False)
    assert ready.job["spec"]["inputModel"] == {
        "modelPath": "team/base",
        "adapterPath": "s3://finetune/inputs/default/tones/adapter/base",
    }


def test_two_files_of_one_name_do_not_meet(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more/train.jsonl").write_text("{}\n")
    config = {"name": "train", "loadDatasetConfig": {"dataFiles": ["data/train.jsonl", "more/train.jsonl"]}}
    ready = localise(job(dataConfigs=[config]), folder, HOME, cpu=False)
    assert len({upload.uri for upload in ready.uploads}) == 3


def test_the_given_job_is_left_as_it_was(folder: Path) -> None:
    given_job = job()
    before = copy.deepcopy(given_job)
    localise(given_job, folder, HOME, cpu=True)
    assert given_job == before


@pytest.mark.parametrize("value", ["s3://other/base", "pvc://claim/base", "microsoft/Phi-3-mini-4k-instruct"])
def test_uris_and_hub_ids_stay(folder: Path, value: str) -> None:
    ready = localise(job(inputModel={"modelPath": value}, dataConfigs=[]), folder, HOME, cpu=False)
    assert ready.job["spec"]["inputModel"]["modelPath"] == value
    assert ready.uploads == []


def test_the_placeholder_endpoint_is_replaced_and_the_rest_of_storage_stays(folder: Path) -> None:
    storage = {"uri": "s3://finetune/mine", "endpoint": PLACEHOLDER_ENDPOINT}
    ready = localise(job(storage=storage), folder, HOME, cpu=False)
    assert ready.job["spec"]["storage"] == {"uri": "s3://finetune/mine", "endpoint": HOME.endpoint}
    assert any("storage.endpoint" in note for note in ready.notes)


@pytest.mark.parametrize("storage", [{"uri": "s3://b/x"}, {"uri": "s3://b/x", "endpoint": "https://minio.example"}])
def test_storage_elsewhere_stays_and_refuses_local_paths(folder: Path, storage: dict[str, str]) -> None:
    remote = job(storage=storage, inputModel={"modelPath": "s3://b/base"}, dataConfigs=[])
    assert localise(remote, folder, HOME, cpu=False).job == remote
    with pytest.raises(CliError, match=r"spec\.inputModel\.modelPath \(\./base\).*Leave spec\.storage out") as caught:
        localise(job(storage=storage), folder, HOME, cpu=False)
    assert caught.value.code == ExitCode.INVALID


def test_what_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(CliError, match=r"modelPath \(\./nothing\): there is no folder .*nothing"):
        localise(job(inputModel={"modelPath": "./nothing"}), folder, HOME, cpu=False)
    (folder / "data/train.jsonl").unlink()
    with pytest.raises(CliError, match=r"dataConfigs\[name=train\].*dataFiles\[0\] \(data/train\.jsonl\): there is no"):
        localise(job(), folder, HOME, cpu=False)


def gpu_system() -> dict[str, Any]:
    amounts = {"cpu": "1", "nvidia.com/gpu": 1}
    return {"name": "gpu", "resources": {"requests": dict(amounts), "limits": dict(amounts)}}


def test_gpus_are_said_to_be_missing(folder: Path) -> None:
    ready = localise(job(systems=[gpu_system()]), folder, HOME, cpu=False)
    assert ready.job["spec"]["systems"] == [gpu_system()]
    assert any("Unschedulable" in note for note in ready.notes)


def test_cpu_removes_gpus_only(folder: Path) -> None:
    ready = localise(job(systems=[gpu_system()]), folder, HOME, cpu=True)
    assert ready.job["spec"]["systems"] == [
        {"name": "gpu", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", "a", "./a", "s3://a/b"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", *FIELDS, *INNER]), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_an_odd_spec_is_refused_in_words_or_left_to_the_rules(spec: dict[str, Any]) -> None:
    try:
        ready = localise({**job(), "spec": spec}, Path("/nowhere"), HOME, cpu=True)
    except CliError as error:
        assert error.code == ExitCode.INVALID
    else:
        assert set(ready.job["spec"]) == {*spec, "storage"}
