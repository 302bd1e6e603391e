"""What each way through the trainer imports: seconds of a stage's life."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# What costs seconds and a training does without: transformers' Trainer alone takes as long as all that it needs.
NEEDLESS = ("transformers.trainer", "transformers.training_args", "datasets", "scipy", "sklearn", "pandas", "onnx")
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "onnxruntime_genai")

PROGRAM = """
import io, json, sys
from pathlib import Path
from finetune_api.stage import StageDocument
from finetune_trainer.context import StageContext
from finetune_trainer.report import Reporter
from finetune_trainer.passes import {module}

given = json.loads(sys.stdin.read())
paths = {{name: Path(path) for name, path in given["inputs"].items()}}
context = StageContext(
    StageDocument.model_validate(given["document"]), paths, Path(given["base"]), Path(given["output"]),
    Path(given["scratch"]), Reporter(io.StringIO()), lambda name: given["rows"][name])
{module}.{function}(context)
print(json.dumps([name for name in {heavy} if name in sys.modules]))
"""


def imported(
    context: Any, module: str, function: str, rows: dict[str, Any], output: Path, heavy: tuple[str, ...] = HEAVY
) -> set[str]:
    """The heavy packages that one function of a pass has imported in a process of its own."""
    given = {
        "document": context.document.wire(),
        "inputs": {name: str(path) for name, path in context.inputs.items()},
        "base": str(context.base),
        "output": str(output),
        "scratch": str(context.scratch),
        "rows": rows,
    }
    program = PROGRAM.format(module=module, function=function, heavy=heavy)
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_merging_imports_torch_alone(merged: Any, rows: dict[str, Any], tmp_path: Path) -> None:
    assert imported(merged.context, "merge", "run", rows, tmp_path) == {"torch"}


def test_checking_an_onnx_model_imports_onnxruntime_alone(built: Any, rows: dict[str, Any]) -> None:
    assert imported(built.context, "build", "check", rows, built.folder) == {"onnxruntime_genai"}


def test_evaluating_an_onnx_model_imports_onnxruntime_alone(
    accuracy_of: Callable, built: Any, rows: dict[str, Any], tmp_path: Path
) -> None:
    context = accuracy_of(onnx=built.folder).context
    assert imported(context, "evaluate", "run", rows, tmp_path) == {"onnxruntime_genai"}


def test_evaluating_a_merged_model_needs_neither_peft_nor_bitsandbytes(
    accuracy_of: Callable, merged: Any, rows: dict[str, Any], tmp_path: Path
) -> None:
    context = accuracy_of(model=merged.folder).context
    assert imported(context, "evaluate", "run", rows, tmp_path) <= {"torch", "transformers", "accelerate"}


@pytest.mark.slow
def test_training_imports_no_trainer_of_transformers(adapter: Any, rows: dict[str, Any], tmp_path: Path) -> None:
    assert imported(adapter.context, "lora", "run", rows, tmp_path, (*NEEDLESS, "peft")) == {"peft"}
