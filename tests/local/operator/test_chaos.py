"""Twenty kills of operator, API server, object storage and stages: every promise holds (bench/chaos.py)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[3] / "bench" / "chaos.py"


def run(kills: int, seed: int, alive: int) -> None:
    words = [sys.executable, str(CHAOS), "--kills", str(kills), "--seed", str(seed), "--alive", str(alive)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr[-3000:]}"
    assert f"{kills} kills" in found.stdout
    least, _ = map(int, re.findall(r"(\d+) to (\d+) stages ran at each kill", found.stdout)[0])
    assert least > 0, "each kill hit work"
    assert "every promise held" in found.stdout


def test_twenty_kills_break_no_promise() -> None:
    run(20, seed=1, alive=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_kills_break_no_promise() -> None:
    run(200, seed=1, alive=6)
