"""Stages that must start in a moment import nothing that takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from .world import World

HEAVY = ("torch", "transformers", "peft", "onnxruntime", "onnxruntime_genai", "huggingface_hub", "scipy", "pandas")
STAGE = "import json, sys; from finetune_trainer.child import main; code = main()"


def modules_after(program: str, **variables: str) -> set[str]:
    """Names of the modules that `program` leaves imported."""
    command = [sys.executable, "-c", f"{program}\nprint('\\n' + json.dumps(sorted(sys.modules)))"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_prepare_is_light(world: World):
    variables = {
        "FINETUNE_STAGE": world.prepare_document().model_dump_json(exclude_none=True),
        "FINETUNE_RESULT_PATH": str(world.folder / "result"),
        "FINETUNE_SCRATCH": str(world.folder),
        "FINETUNE_STORAGE_CREDENTIALS": str(world.credentials),
    }
    modules = modules_after(STAGE, **variables)
    assert json.loads((world.folder / "result").read_bytes())["ok"]
    assert not modules & set(HEAVY)


def test_publish_and_probe_are_light():
    program = "import json, sys, finetune_trainer.child, finetune_trainer.passes.probe, finetune_trainer.passes.publish"
    assert not modules_after(program) & set(HEAVY)


def test_the_supervisor_is_next_to_nothing():
    modules = modules_after("import json, sys, finetune_trainer.__main__, finetune_trainer.supervisor")
    assert not modules & {"pydantic", "boto3", "finetune_api", *HEAVY}
