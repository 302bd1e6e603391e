"""Stages over a network that breaks (bench/faults.py): nothing wrong is published, every failure says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[3] / "bench" / "faults.py"


def run(faults: int, seed: int) -> None:
    words = [sys.executable, str(FAULTS), "--faults", str(faults), "--seed", str(seed)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr[-3000:]}"
    assert f"{faults} faults" in found.stdout
    assert "nothing wrong was published" in found.stdout


def test_twenty_faults_publish_nothing_wrong() -> None:
    run(20, seed=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_two_hundred_faults_publish_nothing_wrong(seed: int) -> None:
    run(200, seed)
