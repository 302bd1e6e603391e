"""A training pod is told to end, saves what it has learned, and its next attempt goes on and cleans up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from finetune_api import rules
from finetune_api.stage import ExitCode, Reason, StageResult
from finetune_trainer.failures import TerminatedError
from finetune_trainer.termination import Termination

from .world import World

KEY = "7" * 64
ARGS = {"maxSteps": 40, "loggingSteps": 1, "perDeviceTrainBatchSize": 2, "saveSteps": 1000}


def document(world: World):
    pins = world.prepare().prepared.pins
    spec = rules.check(world.spec)[0]
    config = {"trainDataConfig": "train", "r": 2, "trainingArgs": ARGS}
    return world.document(
        "LoRA", "lora", KEY, config=config, inputModel=spec.input_model, data=spec.data_configs, pins=pins
    )


@pytest.mark.slow
def test_sigterm_saves_and_the_next_attempt_goes_on(world, tmp_path):
    wanted = document(world)
    scratch = tmp_path / "pod"
    scratch.mkdir()
    variables = {
        **os.environ,
        "FINETUNE_STAGE": wanted.model_dump_json(exclude_none=True),
        "FINETUNE_RESULT_PATH": str(tmp_path / "result"),
        "FINETUNE_SCRATCH": str(scratch),
        "FINETUNE_STORAGE_CREDENTIALS": str(world.credentials),
    }
    command = [sys.executable, "-m", "finetune_trainer", "run"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as pod:
        for line in pod.stdout:
            if line.startswith("{") and json.loads(line).get("step", 0) >= 3:
                pod.send_signal(signal.SIGTERM)
                break
        rest = pod.stdout.read()
        code = pod.wait(60)
    result = StageResult.model_validate_json((tmp_path / "result").read_bytes())
    assert (code, result.reason) == (ExitCode.TERMINATED, Reason.TERMINATED), rest
    [state, manifest] = [
        key for key in world.s3.keys(f"{world.store}/checkpoints/{KEY}") if key.endswith(("pt", "json"))
    ]
    assert state.rpartition("/")[0] == manifest.rpartition("/")[0]
    saved = int(state.partition("-")[0])
    assert f"step {saved} is saved" in rest

    done = world.run(wanted)
    assert done.ok and done.metrics["steps"] == 40
    assert f"going on after step {saved}" in world.log
    assert world.s3.keys(f"{world.store}/checkpoints/{KEY}") == []


def test_a_request_waits_for_who_holds_it():
    termination = Termination()
    with pytest.raises(TerminatedError):
        with termination.held():
            termination.request()
            assert termination.requested, "and nothing is interrupted"
    free = Termination()
    with pytest.raises(TerminatedError):
        free.request()
