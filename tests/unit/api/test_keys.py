"""Content keys are equal exactly when the same thing is computed."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from finetune_api import keys, rules
from finetune_api.base import NoEffect, SecretRef
from finetune_api.builder import ModelBuilderConfig, SearchOptions
from finetune_api.data import PreProcessDataConfig
from finetune_api.evaluators import Evaluator, Goal, Metric
from finetune_api.lora import DoraConfig, LoraConfig, QLoraConfig
from finetune_api.model import LoadKwargs, MaxMemory
from finetune_api.passes import MergeConfig
from finetune_api.stage import DataPin, Pins
from finetune_api.training import LrSchedulerKwargs, TrainingArgs

from .specs import BUILDER, QLORA, Spec, changed, job_spec, passes_only, pins

# Of every type whose fields are in a key: the least that it needs, to start from.
SMALLEST: dict[type[BaseModel], dict[str, Any]] = {
    TrainingArgs: {},
    LrSchedulerKwargs: {},
    SecretRef: {"name": "a"},
    LoraConfig: {"train_data_config": "train"},
    QLoraConfig: {"train_data_config": "train"},
    DoraConfig: {"train_data_config": "train"},
    MergeConfig: {},
    ModelBuilderConfig: {"precision": "int4"},
    SearchOptions: {},
    PreProcessDataConfig: {},
    LoadKwargs: {},
    MaxMemory: {},
    Metric: {"name": "m", "type": "accuracy", "data_config": "train"},
    Goal: {"type": "threshold", "value": 0.5},
    Evaluator: {"name": "e", "metrics": [{"name": "m", "type": "accuracy", "data_config": "train"}]},
}


def fields_of(models: dict[type[BaseModel], Any]) -> Iterator[tuple[type[BaseModel], str]]:
    return ((model, name) for model in models for name in model.model_fields)


def candidates(annotation: Any) -> list[Any]:
    """Some values of this type, at least two wherever it has two."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        first = next(iter(annotation.model_fields))
        values = candidates(annotation.model_fields[first].annotation)
        return [{**SMALLEST[annotation], first: value} for value in values]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return list(arguments)
    if origin in (typing.Union, types.UnionType):
        return [value for part in arguments if part is not type(None) for value in candidates(part)]
    if origin is typing.Annotated:
        return candidates(arguments[0])
    if origin is list:
        return [[value] for value in candidates(arguments[0])]
    if origin is dict:
        return [{"name": value} for value in candidates(arguments[1])]
    return {bool: [True, False], int: [8, 9, 2, 3], float: [0.25, 0.5, 1.5, 2.0], str: ["aa", "bb"]}[annotation]


def valid(model: type[BaseModel], name: str, value: Any) -> BaseModel | None:
    """The smallest `model` with this field; None where the field's bounds refuse the value."""
    try:
        return model.model_validate({**SMALLEST[model], name: value})
    except ValidationError:
        return None


@pytest.mark.parametrize(
    ("model", "name"), list(fields_of(SMALLEST)), ids=lambda value: getattr(value, "__name__", value)
)
def test_every_field_is_in_the_key_but_those_without_effect(model: type[BaseModel], name: str) -> None:
    info = model.model_fields[name]
    right = [found for value in candidates(info.annotation) if (found := valid(model, name, value)) is not None]
    seen = {keys.digest(keys.effective(item)) for item in right}
    if any(isinstance(mark, NoEffect) for mark in info.metadata):
        assert len(seen) == 1
    else:
        assert len(seen) == len(right)
        assert len(right) > 1 or typing.get_origin(info.annotation) is Literal


def stage_keys(spec: Spec, namespace: str = "team", of: Pins | None = None) -> dict[str, str]:
    parsed, found = rules.check(spec)
    assert parsed is not None
    assert not found
    return keys.stage_keys(namespace, parsed, of or pins("train", "held-out"))


KEYS = stage_keys(job_spec())
ALL = set(KEYS)


def differing(other: dict[str, str]) -> set[str]:
    assert set(other) == ALL
    return {name for name in ALL if other[name] != KEYS[name]}


def test_keys_are_stable_over_releases() -> None:
    """A changed key computes everybody's stages anew: raise PASS_VERSIONS on purpose, never by accident."""
    assert keys.combined(KEYS) == "243255eaa4f9e174771560df24c86598e58b3de765acbf3887b1c954aa676c3f"


def test_equal_specs_have_equal_keys() -> None:
    assert stage_keys(job_spec()) == KEYS
    written_out = changed(job_spec(), "passes[0].config.r", 64)
    written_out = changed(written_out, "passes[0].config.trainingArgs.numTrainEpochs", 3)
    assert stage_keys(written_out) == KEYS


def test_every_stage_has_a_key_of_its_own() -> None:
    assert len(set(KEYS.values())) == len(KEYS) == 5


DOWNSTREAM_OF_LORA = {"lora", "merge", "onnx", "evaluate-onnx"}
GPU = [{"name": "gpu", "resources": {"limits": {"nvidia.com/gpu": 1}}}]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("passes[0].config.r", 8, DOWNSTREAM_OF_LORA),
        ("passes[0].config.trainingArgs.seed", 1, DOWNSTREAM_OF_LORA),
        ("passes[0].config.trainingArgs.loggingSteps", 1, set()),
        ("passes[2].config.int4BlockSize", 64, {"onnx", "evaluate-onnx"}),
        ("dataConfigs[0].preProcessDataConfig.maxSeqLen", 64, DOWNSTREAM_OF_LORA),
        ("dataConfigs[1].preProcessDataConfig.maxSeqLen", 64, {"evaluate-input", "evaluate-onnx"}),
        ("dataConfigs[0].loadDatasetConfig.dataFiles", ["s3://elsewhere/the-same.jsonl"], set()),
        ("evaluators[0].metrics[0].maxNewTokens", 5, {"evaluate-input", "evaluate-onnx"}),
        ("inputModel.loadKwargs.torchDtype", "float16", {"evaluate-input", *DOWNSTREAM_OF_LORA}),
        ("inputModel.modelPath", "s3://elsewhere/the-same", set()),
        ("inputModel.adapterPath", "s3://models/adapter", {"evaluate-input", *DOWNSTREAM_OF_LORA}),
        ("inputModel.loadKwargs.maxMemory", {"gpu": "20Gi"}, set()),
        ("engine.logSeverityLevel", 3, set()),
        ("engine.executionProviders", ["cuda"], {"onnx", "evaluate-onnx"}),
        ("storage.uri", "s3://elsewhere", set()),
        ("maxAttempts", 9, set()),
        ("suspend", True, set()),
        ("runId", "again", set()),
        ("queueName", "team", set()),
        ("systems", GPU, set()),
    ],
)
def test_which_keys_a_change_changes(path: str, value: Any, expected: set[str]) -> None:
    assert differing(stage_keys(changed(job_spec(), path, value))) == expected


def test_the_namespace_is_in_every_key() -> None:
    assert differing(stage_keys(job_spec(), "other")) == ALL


def test_pinned_inputs_are_in_the_keys_of_what_reads_them() -> None:
    assert differing(stage_keys(job_spec(), of=pins("train", "held-out", model="b"))) == ALL
    held_out = pins("train", "held-out")
    other = held_out.model_copy(update={"data": {**held_out.data, "held-out": DataPin(digest="f" * 64)}})
    assert differing(stage_keys(job_spec(), of=other)) == {"evaluate-input", "evaluate-onnx"}
    sizes = {name: pin.model_copy(update={"size": 99, "rows": 9}) for name, pin in held_out.data.items()}
    assert differing(stage_keys(job_spec(), of=held_out.model_copy(update={"data": sizes}))) == set()


def test_where_a_stage_runs_is_in_its_key_only_where_it_changes_the_result() -> None:
    on_gpu = job_spec(systems=GPU)
    assert differing(stage_keys(changed(on_gpu, "engine.host", "gpu"))) == ALL
    bigger = changed(on_gpu, "systems[0].resources.limits.memory", "64Gi")
    assert stage_keys(changed(bigger, "engine.host", "gpu")) == stage_keys(changed(on_gpu, "engine.host", "gpu"))
    custom = job_spec(systems=[{"name": "cpu", "image": "registry.example/trainer:1"}])
    assert differing(stage_keys(changed(custom, "passes[2].host", "cpu"))) == {"onnx", "evaluate-onnx"}


def test_lora_and_qlora_of_equal_parameters_differ() -> None:
    lora = {**QLORA, "type": "LoRA"}
    assert stage_keys(passes_only(QLORA)) != stage_keys(passes_only(lora))


def test_a_pin_that_is_missing_is_said() -> None:
    with pytest.raises(KeyError, match="held-out"):
        stage_keys(job_spec(), of=pins("train"))
    without_data = changed(passes_only(BUILDER), "dataConfigs", [])
    assert stage_keys(without_data, of=pins())


def test_a_raised_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keys.PASS_VERSIONS, "ModelBuilder", keys.PASS_VERSIONS["ModelBuilder"] + 1)
    assert differing(stage_keys(job_spec())) == {"onnx", "evaluate-onnx"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_canonical_refuses_what_is_no_json(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        keys.canonical({"a": [value]})


def test_canonical_is_one_spelling() -> None:
    assert keys.canonical({"b": [1, True, None], "a": "ü"}) == '{"a":"ü","b":[1,true,null]}'.encode()
    assert keys.combined({"a": "1", "b": "2"}) == keys.combined([("b", "2"), ("a", "1")])
