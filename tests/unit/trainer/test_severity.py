"""engine.logSeverityLevel changes what a pod writes: our own lines, and those of libraries."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from finetune_trainer.report import Reporter
from finetune_trainer.severity import Severity

from .world import World

LIBRARIES = """
import logging, os, sys, warnings
from finetune_trainer.severity import Severity, printed_to_stderr, silence_libraries
level = Severity(int(sys.argv[1]))
silence_libraries(level)
for name in ("peft", "botocore.auth"):
    for word in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), word)(f"{name} {word}")
warnings.warn("deprecated")
with printed_to_stderr(level):
    print("printed")
print(os.environ["TRANSFORMERS_VERBOSITY"], os.environ["HF_HUB_VERBOSITY"])
"""
WORDS = ["printed", "deprecated"]
WORDS += [f"{name} {word}" for name in ("peft", "botocore.auth") for word in ("debug", "info", "warning", "error")]


@pytest.mark.parametrize(
    ("level", "unheard", "own"),
    [
        # What botocore writes when it debugs has signatures and tokens in it.
        (0, {"botocore.auth debug"}, "info info"),
        (1, {"peft debug", "peft info", "botocore.auth debug", "botocore.auth info"}, "warning warning"),
        (2, {"printed", "peft debug", "peft info", "botocore.auth debug", "botocore.auth info"}, "warning warning"),
        (4, set(WORDS), "critical critical"),
    ],
)
def test_libraries_are_held_to_it(level: int, unheard: set[str], own: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIBRARIES, str(level)], capture_output=True, text=True, check=True)
    assert {word for word in WORDS if word not in done.stderr} == unheard
    assert done.stdout.split("\n")[:-1] == [own], "stdout is for progress"


@pytest.mark.parametrize(("level", "heard"), [(0, "dive"), (1, "ive"), (2, "ve"), (3, "e"), (4, "")])
def test_lines_below_it_are_left_out_and_kept_as_evidence(level: int, heard: str) -> None:
    stream = io.StringIO()
    report = Reporter(stream, Severity(level))
    for word, severity in (("d", Severity.DEBUG), ("i", Severity.INFO), ("v", Severity.WARNING), ("e", Severity.ERROR)):
        report.log(f"say {word}", severity)
    report.progress(step=1)
    lines = stream.getvalue().splitlines()
    assert "".join(line[-1] for line in lines[:-1]) == heard
    assert json.loads(lines[-1])["step"] == 1, "progress is no talk"
    assert len(report.tail) == 5


def test_a_pod_hears_of_it(world: World) -> None:
    """Prepare, as a pod runs it: at the default it says what it does, at 4 nothing but why it failed."""
    assert "a sample: " in _log_of_prepare(world, 1)
    world.s3.put(f"{world.prefix}/train.jsonl", b"")
    words = [line for line in _log_of_prepare(world, 4).splitlines() if line and not line.startswith("{")]
    assert len(words) == 1
    assert "fatal: NoSamples" in words[0]


def _log_of_prepare(world: World, level: int) -> str:
    variables = {
        **os.environ,
        "FINETUNE_STAGE": world.prepare_document(logSeverityLevel=level).model_dump_json(exclude_none=True),
        "FINETUNE_RESULT_PATH": str(world.folder / "result"),
        "FINETUNE_SCRATCH": str(world.folder),
        "FINETUNE_STORAGE_CREDENTIALS": str(world.credentials),
    }
    command = [sys.executable, "-m", "finetune_trainer", "stage"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False).stdout
