"""The workflows, by actionlint: expressions, inputs of actions, shell quoting, what is out of date."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

WORKFLOWS = sorted((Path(__file__).parents[2] / ".github/workflows").glob("*.yaml"))


def test_actionlint_finds_nothing() -> None:
    program = shutil.which("actionlint", path=str(Path(sys.executable).parent))
    assert program, "actionlint is missing: make checks installs it"
    done = subprocess.run([program, "-no-color", *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
