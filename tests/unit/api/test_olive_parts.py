"""What becomes of the parts of an Olive file: systems, data, passes, builds."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from finetune_api import rules
from finetune_api.olive import NoteKind, NotOliveError, Options, import_config

from .olive_files import NEW, OPTIONS, SEEDS, lost, notes


def test_qlora_gives_double_quant_its_meaning() -> None:
    imported = import_config(SEEDS["local"], Options(qlora=True))
    lora = imported.spec["passes"][0]
    assert (lora["name"], lora["type"], lora["config"]["doubleQuant"]) == ("lora", "QLoRA", True)
    assert "passes.lora.config.double_quant" in imported.landed


def test_azure_becomes_kubernetes_or_a_decision() -> None:
    imported = import_config(SEEDS["azureml"], OPTIONS)
    assert imported.spec["inputModel"]["modelPath"] == "microsoft/Phi-3-mini-4k-instruct"
    assert imported.spec["inputModel"]["loadKwargs"] == {"trustRemoteCode": False}
    assert [system["name"] for system in imported.spec["systems"]] == ["aml", "azure_arc"]
    assert all(system["resources"]["limits"] == {"nvidia.com/gpu": 1} for system in imported.spec["systems"])
    assert imported.spec["engine"] == {"host": "aml", "target": "aml", "logSeverityLevel": 0, "searchStrategy": False}
    assert imported.conda_files == ("conda.yaml",)
    decide = notes(imported, NoteKind.DECIDE)
    for path in ("aml_compute", "aml_docker_config.base_image"):
        assert f"systems.aml.config.{path}" in decide
        assert f"systems.azure_arc.config.{path}" in decide
    assert "systems.aml.config.hf_token" in decide
    assert "input_model.config.model_path.config.version" in decide


def test_a_local_file_gets_system_host_and_gpu() -> None:
    spec = import_config(SEEDS["local"], OPTIONS).spec
    assert spec["engine"] == {"host": "local", "target": "local", "logSeverityLevel": 0, "searchStrategy": False}
    assert spec["systems"] == [{"name": "local", "type": "LocalSystem", "resources": {"limits": {"nvidia.com/gpu": 1}}}]
    assert spec["inputModel"]["modelPath"] == "s3://team-data/in/model-cache/microsoft/phi-3-mini"
    files = spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"]
    assert files == ["s3://team-data/in/dataset/dataset-classification.json"]
    assert spec["passes"][2]["config"]["executionProvider"] == "cuda"


def test_for_this_machine_paths_stay_and_no_gpu_is_asked_for() -> None:
    spec = import_config(SEEDS["local"], Options(here=True, cpu=True)).spec
    assert spec["inputModel"]["modelPath"] == "./model-cache/microsoft/phi-3-mini"
    assert spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"] == ["./dataset/dataset-classification.json"]
    assert "storage" not in spec
    assert spec["systems"] == [{"name": "local", "type": "LocalSystem"}]
    assert spec["passes"][2]["config"]["executionProvider"] == "cpu"


def test_a_folder_is_no_hub_id() -> None:
    config = copy.deepcopy(NEW)
    config["input_model"]["model_path"] = "models/tiny"
    assert import_config(config, OPTIONS).spec["inputModel"]["modelPath"] == "models/tiny"
    here = Options(here=True, exists=lambda path: path == "models/tiny")
    assert import_config(config, here).spec["inputModel"]["modelPath"] == "./models/tiny"


def data(load: dict[str, Any], process: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both halves of the data config that these become; they are good ones."""
    config = copy.deepcopy(NEW)
    config["data_configs"]["train"] |= {"load_dataset_config": load, "pre_process_data_config": process or {}}
    spec = import_config(config, OPTIONS).spec
    assert rules.check(spec)[1] == []
    found = spec["dataConfigs"][0]
    return found["loadDatasetConfig"], found["preProcessDataConfig"]


def test_files_of_splits_and_hub_data_sets() -> None:
    by_split = {"data_name": "csv", "data_files": {"train": "a.csv", "test": ["b.csv", "c.csv"]}, "split": "test[:10]"}
    assert data(by_split)[0] == {
        "dataName": "csv",
        "split": "test[:10]",
        "splitFiles": [
            {"split": "train", "files": ["s3://team-data/in/a.csv"]},
            {"split": "test", "files": ["s3://team-data/in/b.csv", "s3://team-data/in/c.csv"]},
        ],
    }
    hub = {
        "data_name": "acme/tones",
        "subset": "en",
        "revision": "v1",
        "col_filters": {"lang": "en", "n": 1, "b": True},
    }
    assert data(hub)[0] == {
        "dataName": "acme/tones",
        "subset": "en",
        "revision": "v1",
        "split": "validation",
        "colFilters": {"lang": "en", "n": "1", "b": "true"},
    }
    assert data(hub | {"data_files": "x.jsonl", "split": "train"})[0]["dataFiles"] == ["x.jsonl"]
    one = {"data_name": "json", "data_files": "a.jsonl", "split": "test"}
    assert data(one)[0] == {"dataName": "json", "dataFiles": ["s3://team-data/in/a.jsonl"]}


def test_strategies_and_chats() -> None:
    files = {"data_name": "json", "data_files": "a.jsonl"}
    window = {"strategy": "join-sliding-window", "stride": 64, "max_seq_len": 128, "random_seed": 1}
    found = data(files, window)[1]
    assert (found["strategy"], found["stride"], found["joiner"]) == ("join-sliding-window", 64, "\n\n")
    assert "randomSeed" not in found, "Olive never reads it there, and a job refuses it"
    drawn = {"strategy": "line-by-line-random", "max_samples": 10, "random_seed": 0, "random_retries": 3}
    found = data(files, drawn | {"drop_short_sequences": True, "padding_side": "left"})[1]
    assert (found["maxSamples"], found["randomSeed"], found["randomRetries"]) == (10, 0, 3)
    assert (found["dropShortSequences"], found["paddingSide"]) == (True, "left")
    chat = data(files, {"chat_template": True, "message_col": "chat", "text_template": "{x}"})[1]
    assert (chat["chatTemplate"], chat["messageCol"]) == ("tokenizer", "chat")
    assert "textTemplate" not in chat
    assert data(files, {"chat_template": "{{ messages }}"})[1]["chatTemplate"] == "{{ messages }}"
    assert "chatTemplate" not in data(files, {"chat_template": False})[1]
    assert data(files, {"source_max_len": 64})[1]["strategy"] == "line-by-line", "as Olive did up to 0.6"


def test_an_adapter_and_bounds_of_memory() -> None:
    config = copy.deepcopy(NEW)
    config["input_model"] |= {"adapter_path": "out/adapter"}
    config["input_model"]["load_kwargs"] |= {"max_memory": {"0": "20GiB", "1": "20GiB", "cpu": "30GB"}}
    here = Options(data_root="s3://team-data/in", exists=lambda path: path == "out/adapter")
    imported = import_config(config, here)
    assert lost(config, imported) == []
    model = imported.spec["inputModel"]
    assert model["adapterPath"] == "s3://team-data/in/out/adapter"
    assert model["loadKwargs"]["maxMemory"] == {"gpu": "20Gi", "cpu": "30G"}
    hub = import_config({**config, "input_model": config["input_model"] | {"adapter_path": "team/adapter"}}, OPTIONS)
    assert hub.spec["inputModel"]["adapterPath"] == "team/adapter"
    assert rules.check(hub.spec)[1] == []
    assert "adapterPath" not in import_config(NEW, OPTIONS).spec["inputModel"]


@pytest.mark.parametrize("word", ["dora", "DoRA", "lora", "qlora", "mergeadapterweights"])
def test_types_of_passes_in_any_case(word: str) -> None:
    """Olive's registry knows its passes whatever their case."""
    config = copy.deepcopy(NEW)
    config["passes"]["tune"]["type"] = word
    del config["passes"]["build"]
    found = import_config(config, OPTIONS).spec["passes"][0]["type"]
    assert found.lower() == word.lower()


def test_dora_has_loras_parameters_and_no_others() -> None:
    config = copy.deepcopy(NEW)
    config["passes"]["tune"] |= {"type": "DoRA", "lora_dropout": 0.2, "target_modules": ["o_proj"],
                                 "modules_to_save": ["lm_head"], "torch_dtype": "float32"}  # fmt: skip
    imported = import_config(config, OPTIONS)
    assert lost(config, imported) == []
    assert rules.check(imported.spec)[1] == []
    dora = imported.spec["passes"][0]
    assert (dora["type"], dora["config"]["r"], dora["config"]["alpha"]) == ("DoRA", 16, 32)
    assert (dora["config"]["loraDropout"], dora["config"]["torchDtype"]) == (0.2, "float32")
    assert (dora["config"]["targetModules"], dora["config"]["modulesToSave"]) == (["o_proj"], ["lm_head"])
    assert "doubleQuant" not in dora["config"]
    assert "belongs to QLoRA" in notes(imported, NoteKind.CONTRADICTS)["passes.tune.double_quant"]
    assert import_config(config, Options(qlora=True)).spec["passes"][0]["type"] == "DoRA", "--qlora is about LoRA"


BUILDS: dict[str, Any] = {
    "_default": {"host": "box", "output_dir": "out"},
    "small": {"pipeline": ["tune", "build"], "target": "box"},
    "whole": {"pipeline": ["tune"], "host": "other", "components": ["text"]},
}


@pytest.mark.parametrize(
    ("build", "passes", "host"),
    [(None, ["tune", "merge", "build", "build-2"], "box"), ("whole", ["tune"], "other")],
)
def test_one_build_of_several(build: str | None, passes: list[str], host: str) -> None:
    config = {**copy.deepcopy(NEW), "builds": BUILDS, "max_concurrent_builds": 2}
    config["systems"]["other"] = {"type": "LocalSystem"}
    config["passes"]["build"].append({"type": "ModelBuilder", "precision": "fp32"})
    imported = import_config(config, Options(build=build))
    assert lost(config, imported) == []
    assert [item["name"] for item in imported.spec["passes"]] == passes
    assert imported.spec["engine"]["host"] == host
    other = "whole" if build is None else "small"
    assert f"--build {other}" in notes(imported, NoteKind.DECIDE)[f"builds.{other}"]


def test_a_build_that_is_not_there() -> None:
    with pytest.raises(NotOliveError, match="no build large; there are: small, whole"):
        import_config({**NEW, "builds": BUILDS}, Options(build="large"))


def test_passes_left_out_of_a_flow_are_named() -> None:
    config = {**copy.deepcopy(NEW), "pass_flows": [["build"], ["tune"]]}
    imported = import_config(config, OPTIONS)
    assert lost(config, imported) == []
    assert [item["name"] for item in imported.spec["passes"]] == ["build"]
    assert "passes.tune" in notes(imported, NoteKind.LEFT_OUT)


def test_what_a_builder_is_told_lands_in_it() -> None:
    imported = import_config(NEW, OPTIONS)
    config = next(item["config"] for item in imported.spec["passes"] if item["type"] == "ModelBuilder")
    assert config["search"] == {"topK": 5}
    assert config["int4NodesToExclude"] == ["/lm_head/MatMul"]
    [said] = [note.message for note in imported.notes if note.path.endswith("search.chunk_size")]
    assert said == "the whole prompt is read at once."


@pytest.mark.parametrize(("provider", "ours"), [("DmlExecutionProvider", "dml"), ("WebGpuExecutionProvider", "webgpu")])
def test_a_model_for_a_provider_that_no_pod_has_is_built_all_the_same(provider: str, ours: str) -> None:
    config = copy.deepcopy(NEW)
    config["systems"]["box"]["accelerators"] = [{"device": "gpu", "execution_providers": [provider]}]
    imported = import_config(config, OPTIONS)
    built = next(item["config"] for item in imported.spec["passes"] if item["type"] == "ModelBuilder")
    assert built["executionProvider"] == ours
