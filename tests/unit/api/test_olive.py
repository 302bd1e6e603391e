"""Olive's configurations become jobs, and no value of theirs is lost."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api import rules
from finetune_api.olive import NoteKind, NotOliveError, Options, import_config

from .olive_files import ALL, NEW, OPTIONS, SEEDS, at, lost, notes


@pytest.mark.parametrize("name", ALL)
def test_every_value_lands_or_is_named_and_the_job_is_valid(name: str) -> None:
    imported = import_config(ALL[name], OPTIONS)
    assert lost(ALL[name], imported) == []
    for target in imported.landed.values():
        at(imported.job(), target)
    parsed, found = rules.check(imported.spec)
    assert parsed is not None
    assert found == []


def test_the_seeds_are_there() -> None:
    assert set(SEEDS) == {"azureml", "local"}


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("options", [Options(), Options(qlora=True), Options(cpu=True)])
def test_an_import_without_decisions_is_valid_too(name: str, options: Options) -> None:
    assert rules.check(import_config(SEEDS[name], options).spec)[1] == []


def test_what_contradicts_itself_is_said() -> None:
    said = notes(import_config(SEEDS["local"], OPTIONS), NoteKind.CONTRADICTS)
    arguments = "passes.lora.config.training_args"
    assert set(said) == {
        f"{arguments}.max_steps",
        f"{arguments}.eval_steps",
        f"{arguments}.group_by_length",
        "passes.lora.config.double_quant",
    }
    assert "10 steps override numTrainEpochs 3" in said[f"{arguments}.max_steps"]
    assert "never reached" in said[f"{arguments}.eval_steps"]


def test_the_newer_spelling() -> None:
    imported = import_config(NEW, Options(storage="s3://team-out/jobs"))
    assert imported.name == "tones-13"
    spec = imported.spec
    assert [(item["name"], item["type"]) for item in spec["passes"]] == [
        ("tune", "QLoRA"),
        ("merge", "MergeAdapterWeights"),
        ("build", "ModelBuilder"),
    ]
    config = spec["passes"][0]["config"]
    assert (config["r"], config["alpha"], config["doubleQuant"]) == (16, 32, True)
    arguments = config["trainingArgs"]
    assert "maxSteps" not in arguments
    assert arguments["evalStrategy"] == "no"
    assert (arguments["adamBeta1"], arguments["perDeviceTrainBatchSize"]) == (0.8, 8)
    process = spec["dataConfigs"][0]["preProcessDataConfig"]
    assert (process["strategy"], process["joiner"], process["textCols"]) == ("join", "\n\n", ["phrase", "tone"])
    assert spec["dataConfigs"][0]["loadDatasetConfig"]["split"] == "train[:70%]"


def test_what_is_not_named_is_a_placeholder_to_decide() -> None:
    config = copy.deepcopy(SEEDS["local"])
    del config["input_model"]["config"]["hf_config"]["model_name"]
    del config["data_configs"][0]["load_dataset_config"]["params"]["data_files"]
    imported = import_config(config, OPTIONS)
    data = "spec.dataConfigs[name=dataset_default_train].loadDatasetConfig.dataFiles"
    assert {"spec.inputModel.modelPath", data} <= set(notes(imported, NoteKind.DECIDE))
    assert rules.check(imported.spec)[1] == []


def test_what_an_old_file_leaves_open_is_what_olive_did_then() -> None:
    config = copy.deepcopy(SEEDS["local"])
    config["passes"]["lora"]["config"] = {"train_data_config": "dataset_default_train"}
    lora = import_config(config, OPTIONS).spec["passes"][0]["config"]
    assert lora["loraDropout"] == 0.0
    assert lora["trainingArgs"] == {
        "gradientAccumulationSteps": 16,
        "gradientCheckpointing": True,
        "maxSteps": 10_000,
    }


@pytest.mark.parametrize(
    ("path", "value", "kind", "words"),
    [
        (("passes", "lora", "config", "lora_r"), "many", NoteKind.DECIDE, "valid integer"),
        (("passes", "lora", "config", "lora_q"), 1, NoteKind.LEFT_OUT, "Olive's schema has none of this name"),
        (("passes", "lora", "config", "target_modules"), None, NoteKind.LEFT_OUT, "null is Olive's default"),
        (("passes", "prune"), {"type": "SparseGPT", "config": {"a": 1}}, NoteKind.DECIDE, "no pass of a job"),
        (("evaluators",), {"common": {"metrics": []}}, NoteKind.DECIDE, "spec.evaluators"),
        (("engine", "search_strategy"), {"execution_order": "joint"}, NoteKind.DECIDE, "search nothing"),
        (("input_model", "config", "script_dir"), "x", NoteKind.LEFT_OUT, "runs no code"),
        (("engine", "host"), "moon", NoteKind.DECIDE, "no item of spec.systems"),
    ],
)
def test_what_does_not_fit_is_named_with_a_reason(
    path: tuple[str, ...], value: Any, kind: NoteKind, words: str
) -> None:
    config = copy.deepcopy(SEEDS["local"])
    here = config
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    said = [note.message for note in import_config(config, OPTIONS).notes if note.kind is kind]
    assert any(words in message for message in said), said


@pytest.mark.parametrize("config", [None, [], {}, {"passes": {}}, "x"])
def test_what_is_no_configuration_is_refused(config: Any) -> None:
    with pytest.raises(NotOliveError, match="input_model and passes"):
        import_config(config, OPTIONS)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(steps):
        yield value, key
        yield from places(inner)


WORDS = st.sampled_from(
    ["type", "config", "params", "host", "name", "LoRA", "DoRA", "path", "file", "azureml_datastore", "a b", "", "r"]
)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(ALL)), st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_mutated_configuration_loses_nothing(name: str, data: st.DataObject) -> None:
    config = copy.deepcopy(ALL[name])
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(places(config))))
        if isinstance(container, Mapping) and data.draw(st.booleans()):
            container[data.draw(WORDS)] = data.draw(JSON)
        else:
            container[key] = data.draw(JSON)
    imported = import_config(config, OPTIONS)
    assert lost(config, imported) == []
    for target in imported.landed.values():
        at(imported.job(), target)
    rules.check(imported.spec)
