"""Families of processes: found by their mark, killed whole, and outlived by nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from finetune_local import processes

# Starts a grandchild in a session of its own, as torchrun does with its workers.
FORKING = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("started", flush=True)
time.sleep(600)
"""
PARENT = f"""
import asyncio, os, sys
from finetune_local import processes
async def main():
    async with processes.Watchdog("{{family}}"):
        environment = {{{{**os.environ, **processes.mark("{{family}}", "a")}}}}
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", {FORKING!r}, env=environment, stdout=-1)
        await child.stdout.readline()
        print("up", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def settled(check: Callable[[], bool]) -> bool:
    """Whether `check()` holds within 5 s: a process in the middle of fork, exec or death is neither here nor there."""
    deadline = time.monotonic() + 5
    while not check() and time.monotonic() < deadline:
        time.sleep(0.01)
    return check()


def start(family: str, member: str, code: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **processes.mark(family, member)}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"started\n"
    return child


def test_kill_reaches_sessions_of_their_own_and_leaves_others() -> None:
    family = processes.new_family()
    one, other = start(family, "a", FORKING), start(family, "b", FORKING)
    try:
        assert settled(lambda: sorted(map(len, processes.members(family).values())) == [2, 2])
        assert set(processes.members(family)) == {"a", "b"}
        processes.kill(family, "a")
        assert one.wait(timeout=5) == -signal.SIGKILL
        assert len(processes.find(family, "b")) == 2
    finally:
        processes.kill(family)
        other.wait(timeout=5)
    # The grandchildren are not ours to wait for: they die when the kernel gets to them.
    assert settled(lambda: processes.find(family) == [])


def test_marks_are_found_without_a_proc_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    family = processes.new_family()
    child = start(family, "a", FORKING)
    try:
        monkeypatch.setattr(processes, "PROC", Path("/nowhere"))
        assert child.pid in processes.find(family, "a")
    finally:
        monkeypatch.undo()
        processes.kill(family)
        child.wait(timeout=5)


def test_family_dies_with_a_parent_that_was_killed() -> None:
    family = processes.new_family()
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(family=family)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    assert settled(lambda: len(processes.find(family)) == 2)
    pids = processes.find(family)
    parent.kill()
    parent.wait(timeout=5)
    assert settled(lambda: not any(map(_lives, pids)))


async def test_watchdog_ends_quickly_with_an_orderly_parent() -> None:
    family = processes.new_family()
    async with processes.Watchdog(family):
        child = await asyncio.create_subprocess_exec("sleep", "600", env={**os.environ, **processes.mark(family, "a")})
        start_of_end = time.monotonic()
    assert time.monotonic() - start_of_end < 0.9
    assert await child.wait() == -signal.SIGKILL


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
