"""A command ends in good order, whichever signal ends it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from finetune_cli import loop

PROGRAM = """
import asyncio
from finetune_cli import loop

async def work():
    try:
        print("begun", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)

try:
    loop.run(work())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


async def _answer() -> int:
    return 42


def test_the_result_comes_back() -> None:
    assert loop.run(_answer()) == 42


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_lets_the_work_clean_up(number: signal.Signals, ignored: bool) -> None:
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if ignored else ""
    with subprocess.Popen([sys.executable, "-c", ignore + PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.stdout.read().split("\n") == ["cleaned up", "interrupted", ""]
    assert process.returncode == 0
