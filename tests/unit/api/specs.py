"""Specs for tests, as a client sends them: plain JSON, fresh copies each time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from finetune_api.stage import DataPin, ModelPin, Pins

Spec = dict[str, Any]

LORA = {"name": "lora", "type": "LoRA", "config": {"trainDataConfig": "train"}}
QLORA = {"name": "qlora", "type": "QLoRA", "config": {"trainDataConfig": "train"}}
MERGE = {"name": "merge", "type": "MergeAdapterWeights"}
BUILDER = {"name": "onnx", "type": "ModelBuilder", "config": {"precision": "int4"}}

_BASE: Spec = {
    "inputModel": {"modelPath": "s3://models/phi3"},
    "dataConfigs": [
        {
            "name": "train",
            "loadDatasetConfig": {"dataFiles": ["s3://data/train.jsonl"]},
            "preProcessDataConfig": {"textCols": ["phrase", "tone"], "textTemplate": "{phrase} -> {tone}"},
        },
        {
            "name": "held-out",
            "loadDatasetConfig": {"dataFiles": ["configMap://rows/held-out.jsonl"]},
            "preProcessDataConfig": {"textCols": ["phrase", "tone"], "textTemplate": "{phrase} -> {tone}"},
        },
    ],
    "passes": [LORA, MERGE, BUILDER],
    "evaluators": [{"name": "tones", "metrics": [{"name": "right", "type": "accuracy", "dataConfig": "held-out"}]}],
    "engine": {"evaluator": "tones"},
    "storage": {
        "uri": "s3://out/jobs",
        "endpoint": "http://127.0.0.1:9000",
        "credentialsSecretRef": {"name": "s3"},
    },
}


def job_spec(**fields: Any) -> Spec:
    """LoRA → merge → int4, with an evaluator on the input model and on the ONNX model; top fields replaced."""
    return copy.deepcopy({**_BASE, **fields})


def passes_only(*passes: Mapping[str, Any]) -> Spec:
    """These passes and nothing beside them: no evaluator."""
    spec = job_spec(passes=list(passes))
    del spec["evaluators"], spec["engine"]
    return spec


def changed(spec: Spec, path: str, value: Any) -> Spec:
    """A copy of `spec` with `value` at `path` (`passes[0].config.r`); None takes the field away."""
    result = copy.deepcopy(spec)
    *parents, last = _steps(path)
    here: Any = result
    for step in parents:
        here = here[step] if isinstance(step, int) else here.setdefault(step, {})
    if value is None:
        del here[last]
    else:
        here[last] = value
    return result


def _steps(path: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in path.replace("]", "").replace("[", ".").split(".")]


def pins(*data: str, model: str = "a") -> Pins:
    """Pins of a model and of these data sets."""
    return Pins(
        model=ModelPin(digest=model * 64, revision="main", architecture="Phi3ForCausalLM", size=123),
        data={name: DataPin(digest=f"{index:x}" * 64, size=10, rows=2) for index, name in enumerate(data)},
    )
