"""Processes that die with what started them, however that ends and whatever sessions they made.

Each gets a mark in its environment, which its descendants inherit. By the mark all of them are found again: a
process group would miss those that started a session of their own (torchrun's workers do), and a parent-death
signal reaches direct children only. `Watchdog` is a process beside that kills a family when its parent is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import psutil

MARK = "FINETUNE_LOCAL_PROCESS"
PROC = Path("/proc")
# A process that was just being started when its parent died shows its mark a moment later.
WATCHDOG_SECONDS = 1.0
# An exec takes about a thousandth of a second.
_EXEC_SECONDS = 0.005


def new_family() -> str:
    """A name for the processes of one parent, used once."""
    return uuid4().hex


def mark(family: str, member: str) -> dict[str, str]:
    """The environment variable that makes a process, and what it starts, `member` of `family`."""
    return {MARK: f"{family}/{member}"}


def find(family: str, member: str | None = None) -> list[int]:
    """The pids of the family's living processes, of all members or of one."""
    found = members(family)
    if member is not None:
        return found.get(member, [])
    return [pid for pids in found.values() for pid in pids]


def members(family: str) -> dict[str, list[int]]:
    """The pids of the family's living processes, by member."""
    found: dict[str, list[int]] = defaultdict(list)
    prefix = f"{family}/"
    for pid, value in _marks():
        if value.startswith(prefix):
            found[value.removeprefix(prefix)].append(pid)
    return found


def kill(family: str, member: str | None = None) -> None:
    """SIGKILL them, and those that they started meanwhile."""
    killed: set[int] = set()
    # A process in the middle of an exec shows no mark, and is in no group of ours where it left that before: a second
    # look finds it.
    for pause in (0.0, _EXEC_SECONDS):
        time.sleep(pause)
        while pids := set(find(family, member)) - killed:
            for pid in pids:
                send(pid, signal.SIGKILL)
            killed |= pids


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone already is none to worry about."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def kill_group(leader: int) -> None:
    """SIGKILL the process group of `leader`, dead or alive: a process in the middle of an exec shows no mark."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # Nobody is left in it; macOS says "not permitted" where only a zombie is.
        return


class Watchdog:
    """Kills `family` at the end of the context, and by a process beside this one where this one is killed before."""

    def __init__(self, family: str) -> None:
        self._family = family
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Watchdog:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            __file__,
            self._family,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            env={},
            # A Ctrl-C on the terminal is for the parent, which then ends in order.
            start_new_session=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        kill(self._family)
        if self._process is not None:
            # All is done: it need not even get to its own start.
            self._process.kill()
            await self._process.wait()


def _marks() -> Iterator[tuple[int, str]]:
    """(pid, mark) of every process that has one and that this user may look into."""
    needle = f"{MARK}=".encode()
    if not PROC.is_dir():
        for pid in psutil.pids():
            try:
                environment: Mapping[str, str] = psutil.Process(pid).environ()
            except psutil.Error:
                continue
            if MARK in environment:
                yield pid, environment[MARK]
        return
    # Not psutil: this runs at every container's end, and reads thirty times less here.
    for entry in os.listdir(PROC):  # noqa: PTH208  (a Path per process would double the cost)
        if not entry.isdecimal():
            continue
        try:
            with open(f"{PROC}/{entry}/environ", "rb", buffering=0) as file:  # noqa: PTH123  (the same)
                content = file.readall()
        except OSError:
            continue
        for variable in content.split(b"\0") if needle in content else ():
            if variable.startswith(needle):
                yield int(entry), variable.removeprefix(needle).decode()


def _watch(family: str) -> None:
    """The watchdog itself: stdin ends with the parent."""
    sys.stdin.buffer.read()
    deadline = time.monotonic() + WATCHDOG_SECONDS
    while time.monotonic() < deadline:
        kill(family)
        time.sleep(0.1)


if __name__ == "__main__":
    _watch(sys.argv[1])
