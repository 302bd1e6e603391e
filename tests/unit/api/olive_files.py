"""Olive's configurations of the tests, and what an import made of their values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api.olive import Imported, NoteKind, Options

GOLDEN = Path(__file__).parents[2] / "golden" / "olive"


SEEDS = {path.name.split(".")[1]: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("olive-config.*.json"))}


OPTIONS = Options(name="tones", data_root="s3://team-data/in", storage="s3://team-out/jobs")


# Olive 0.13's spelling: flat, maps and lists where 0.5 had others.
NEW: dict[str, Any] = {
    "workflow_id": "tones_13",
    "input_model": {
        "type": "HfModel",
        "model_path": "microsoft/Phi-3-mini-4k-instruct",
        "load_kwargs": {"torch_dtype": "bfloat16", "attn_implementation": "sdpa", "trust_remote_code": True},
    },
    "data_configs": {
        "train": {
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": ["a.jsonl", "b.jsonl"], "split": "train[:70%]"},
            "pre_process_data_config": {"text_template": "{phrase}: {tone}", "max_seq_len": 512},
        }
    },
    "systems": {
        "box": {
            "type": "LocalSystem",
            "accelerators": [{"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}],
        }
    },
    "passes": {
        "tune": {"type": "qlora", "r": 16, "alpha": 32, "double_quant": True, "train_data_config": "train",
                 "training_args": {"learning_rate": 1e-4, "num_train_epochs": 2, "max_steps": -1,
                                   "eval_strategy": "steps", "extra_args": {"adam_beta1": 0.8}}},
        "build": [{"type": "ModelBuilder", "precision": "int4", "int4_accuracy_level": 4, "int4_block_size": 32,
                   "int4_nodes_to_exclude": ["/lm_head/MatMul"], "search": {"top_k": 5, "chunk_size": 64}}],
    },
    "host": "box",
    "target": "box",
    "output_dir": "out",
}  # fmt: skip


# The same with what only some files have.
FULL: dict[str, Any] = {
    **NEW,
    "input_model": {**NEW["input_model"], "adapter_path": "team/adapter"},
    "evaluators": {
        "common": {
            "metrics": [
                {"name": "tones", "type": "accuracy", "data_config": "train",
                 "sub_types": [{"name": "exact_match", "goal": {"type": "threshold", "value": 0.9}}]},
                {"name": "speed", "type": "latency", "sub_types": [{"name": "avg", "priority": 1}, {"name": "p99"}],
                 "user_config": {"batch_size": 2}},
            ]
        }
    },
    "evaluator": "common",
    "builds": {"_default": {"host": "box"}, "small": {"pipeline": ["tune", "build"]}, "whole": {"pipeline": ["tune"]}},
}  # fmt: skip


ALL = {**SEEDS, "new": NEW, "full": FULL}


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The test's own reading of what there is to lose."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path.removeprefix(".")


def covers(above: str, path: str) -> bool:
    return path == above or (path.startswith(above) and path[len(above) :][:1] in (".", "["))


def lost(config: Any, imported: Imported) -> list[str]:
    said = [*imported.landed, *(note.path for note in imported.notes)]
    return [path for path in leaves(config) if not any(covers(above, path) for above in said)]


def at(job: Any, target: str) -> Any:
    """The value at a field's path; KeyError or StopIteration where there is none."""
    here = job
    for field, name, index, key in re.findall(r"\[(name|split)=([^\]]*)\]|\[(\d+)\]|([^.\[]+(?:\.com/gpu)?)", target):
        step = int(index) if index else key
        here = next(item for item in here if item[field] == name) if field else here[step]
    return here


def notes(imported: Imported, kind: NoteKind) -> dict[str, str]:
    return {note.path: note.message for note in imported.notes if note.kind is kind}
