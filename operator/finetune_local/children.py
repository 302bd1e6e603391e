"""Child processes of the cluster: services that run beside it, with a log, an orderly end and no way to outlive it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune_local import processes

LAST_LINES = 20
READY = b"ready\n"


class ChildError(Exception):
    """A child process ended, or did not get ready, when it should have run on."""


@dataclass(frozen=True)
class Command:
    """A program: its words, and its whole environment. `announces`: it prints `ready` on stdout once it is."""

    name: str
    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    announces: bool = False


class Child:
    """One run of a command; what it writes goes to the end of `log`. `family` marks it and all that it starts."""

    def __init__(self, command: Command, log: Path, family: str) -> None:
        self._command, self._log, self._family = command, log, family
        self._process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        """The command's name."""
        return self._command.name

    @property
    def pid(self) -> int:
        """The process' id. Raises ChildError before it is started."""
        return self._running().pid

    async def start(self, *, seconds: float = 30.0) -> None:
        """Start it, and wait until it is ready where it announces that. Raises ChildError after `seconds`."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**self._command.environment, **processes.mark(self._family, self.name)}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command.words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if self._command.announces else log,
                stderr=log,
                env=environment,
                # A Ctrl-C on the terminal reaches the cluster alone, which ends its children in order.
                start_new_session=True,
            )
        if self._process.stdout is not None:
            try:
                line = await asyncio.wait_for(self._process.stdout.readline(), seconds)
            except TimeoutError:
                await self.stop()
                raise ChildError(f"{self.name}: not ready after {seconds:g} s{self._last_words()}") from None
            if line != READY:
                await self.wait()
                raise self.error()

    async def wait(self) -> int:
        """Its exit code, once it has ended; -n for signal n."""
        return await self._running().wait()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._running().returncode is not None

    def error(self) -> ChildError:
        """That it has ended too early, with the last lines of its log."""
        return ChildError(f"{self.name} ended with {self._running().returncode}{self._last_words()}")

    async def stop(self, grace: float = 10.0) -> None:
        """SIGTERM, and after `grace` seconds SIGKILL to it and all that it started."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            processes.send(process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), grace)
            except TimeoutError:
                processes.send(process.pid, signal.SIGKILL)
        processes.kill(self._family, self.name)
        await process.wait()

    async def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        processes.send(self.pid, signal.SIGKILL)
        await self.wait()

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ChildError(f"{self.name} has not been started")
        return self._process

    def _last_words(self) -> str:
        text = self._log.read_text(errors="replace")
        lines = text.splitlines()[-LAST_LINES:]
        return f"; its last lines in {self._log}:\n" + "\n".join(lines) if lines else f"; {self._log} is empty"


def inherited(**changes: str) -> dict[str, str]:
    """This process' environment with `changes`."""
    return {**os.environ, **changes}
