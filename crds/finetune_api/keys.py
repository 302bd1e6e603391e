"""Content keys: equal exactly when two stages compute the same thing.

A key is the sha256 (hex) of canonical JSON over namespace, type, configuration, pinned inputs, upstream keys
and the pass's version. Fields marked `NoEffect` stay outside. The namespace is inside, so that no tenant's
result is ever another tenant's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from finetune_api.base import NoEffect
from finetune_api.job import JobSpec
from finetune_api.outline import StageOutline, outline
from finetune_api.passes import ADAPTER_PASSES
from finetune_api.stage import Pins

# Raised when a pass starts to compute something else from the same inputs.
PASS_VERSIONS = {
    "LoRA": 2,
    "QLoRA": 2,
    "DoRA": 1,
    "MergeAdapterWeights": 1,
    "ModelBuilder": 4,
    "Evaluate": 2,
}


def canonical(value: Any) -> bytes:
    """JSON in one spelling: sorted keys, no spaces, UTF-8; NaN and infinities are refused with ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """sha256 (hex) of `canonical(value)`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def effective(model: BaseModel) -> dict[str, Any]:
    """What of `model` has an effect on results: defaults written out, `NoEffect` fields left out, at any depth."""
    result: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        if any(isinstance(mark, NoEffect) and mark.holds(model) for mark in info.metadata):
            continue
        value = getattr(model, name)
        if value is not None:
            result[name] = _effective_value(value)
    return result


def _effective_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return effective(value)
    if isinstance(value, list | tuple):
        return [_effective_value(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _effective_value(item) for key, item in value.items()}
    return value


def stage_keys(namespace: str, spec: JobSpec, pins: Pins) -> dict[str, str]:
    """Stage name → content key, for every stage between prepare and publish.

    Raises KeyError where `pins` lacks a data set that a stage reads.
    """
    keys: dict[str, str] = {}
    for stage in outline(spec):
        keys[stage.name] = _stage_key(namespace, spec, pins, stage, keys)
    return keys


def known_stage_keys(namespace: str, spec: JobSpec, pins: Pins) -> dict[str, str]:
    """`stage_keys` of those stages alone that read nothing that `pins` lacks, directly or by what is before them."""
    keys: dict[str, str] = {}
    for stage in outline(spec):
        if all(name in pins.data for name in stage.data) and all(name in keys for name in stage.inputs.values()):
            keys[stage.name] = _stage_key(namespace, spec, pins, stage, keys)
    return keys


def _stage_key(namespace: str, spec: JobSpec, pins: Pins, stage: StageOutline, upstream: Mapping[str, str]) -> str:
    content: dict[str, Any] = {
        "namespace": namespace,
        "type": stage.type,
        "version": PASS_VERSIONS[stage.type],
        "config": effective(stage.config),
        "inputs": {role: upstream[name] for role, name in stage.inputs.items()},
        "data": [_data_content(spec, pins, name) for name in stage.data],
        "runtime": _runtime(spec, stage),
    }
    if stage.evaluator:
        content["evaluator"] = effective(stage.evaluator)
    if stage.base:
        content["base"] = {"digest": pins.model.digest, "loadKwargs": effective(spec.input_model.load_kwargs)}
    if stage.base_adapter:
        content["baseAdapter"] = pins.model.adapter
    return digest(content)


def _data_content(spec: JobSpec, pins: Pins, name: str) -> dict[str, Any]:
    config = next(config for config in spec.data_configs if config.name == name)
    return {
        "name": name,
        "digest": pins.data[name].digest,
        "load": effective(config.load_dataset_config),
        "preProcess": effective(config.pre_process_data_config),
    }


def _runtime(spec: JobSpec, stage: StageOutline) -> dict[str, Any]:
    """What of the place a stage runs on changes its result: a custom image, its GPUs, the world size."""
    system = next((system for system in spec.systems if system.name == stage.system), None)
    if system is None:
        return {}
    runtime: dict[str, Any] = {}
    if system.image:
        runtime["image"] = system.image
    if stage.computes_on_gpu and system.gpus():
        runtime["gpus"] = system.gpus()
    if stage.type in ADAPTER_PASSES and system.world_size() > 1:
        runtime["worldSize"] = system.world_size()
    return runtime


def combined(keys: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """One digest over many keys, by which prepare and operator see that they mean the same stages."""
    return digest(dict(keys))
