"""One container: its process, its log, and its state as a pod's status shows it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from finetune_local import processes
from finetune_local.client import Object
from finetune_operator.times import rfc3339

MESSAGE_BYTES = 4096
FALLBACK_BYTES, FALLBACK_LINES = 2048, 80
# Exit codes that are no process's own.
NOT_STARTED, KILLED = 128, 137


class StartError(Exception):
    """The container's program cannot be run."""


@dataclass(frozen=True)
class Launch:
    """All that a process is started with."""

    words: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    family: str
    member: str


@dataclass
class Container:
    """A container's spec with what has become of it. `state` and `last_state` are as in a pod's status."""

    spec: Object
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Object = field(default_factory=dict)
    restarts: int = 0
    out_of_memory: bool = False
    launch: Launch | None = None
    process: asyncio.subprocess.Process | None = None
    started: int = 0

    @property
    def name(self) -> str:
        """The container's name in its pod."""
        return self.spec["name"]

    @property
    def exit_code(self) -> int | None:
        """The code it ended with; None while it waits or runs."""
        terminated = self.state.get("terminated")
        return None if terminated is None else terminated["exitCode"]

    def wait(self, reason: str, message: str = "") -> None:
        """It waits, for the reason given."""
        self._move({"waiting": {"reason": reason, **({"message": message} if message else {})}})

    async def start(self, launch: Launch) -> None:
        """Start the process. Raises StartError, after which the container has ended with code 128."""
        self.launch = launch
        self.out_of_memory = False
        if self.started:
            self.restarts += 1
        self.started += 1
        try:
            self.process = await _spawn(launch)
        except (OSError, StartError) as error:
            # An OSError's own words name the sandbox instead of the word that the user wrote.
            cause = error.strerror if isinstance(error, OSError) else str(error)
            message = f'exec: "{launch.words[0] if launch.words else ""}": {cause}'
            self.end(NOT_STARTED, "StartError", message)
            raise StartError(message) from error
        self._move({"running": {"startedAt": _now()}})

    async def finished(self, message_file: Path) -> int:
        """Wait for the process; its exit code, 128 + n for signal n. What it started and left behind is killed."""
        if self.process is None or self.launch is None:
            raise RuntimeError(f"container {self.name} was not started")
        code = await self.process.wait()
        self.kill()
        self.process = None
        code = 128 - code if code < 0 else code
        if self.out_of_memory:
            code = KILLED
        reason = "OOMKilled" if self.out_of_memory else "Completed" if code == 0 else "Error"
        self.end(code, reason, self._message(message_file, code))
        return code

    def end(self, code: int, reason: str, message: str = "") -> None:
        """It has ended."""
        terminated = {
            "exitCode": code,
            "reason": reason,
            "startedAt": self.state.get("running", {}).get("startedAt", _now()),
            "finishedAt": _now(),
        }
        self._move({"terminated": {**terminated, **({"message": message} if message else {})}})

    def terminate(self) -> None:
        """Ask the process to end: SIGTERM to it alone, as to a container's PID 1."""
        if self.process is not None:
            processes.send(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the process and all that it started."""
        if self.process is not None and self.launch is not None:
            processes.kill_group(self.process.pid)
            processes.kill(self.launch.family, self.launch.member)

    def _move(self, state: Object) -> None:
        if "terminated" in self.state:
            self.last_state = self.state
        self.state = state

    def _message(self, file: Path, code: int) -> str:
        message = _head(file)
        if not message and code != 0 and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = _tail(self.launch.log) if self.launch else ""
        return message


async def _spawn(launch: Launch) -> asyncio.subprocess.Process:
    if not launch.words:
        raise StartError("no command: the image has no entrypoint, and the container gives none")
    program = shutil.which(launch.words[0], path=launch.environment.get("PATH", ""))
    if program is None:
        raise StartError("executable file not found in $PATH")
    if not launch.directory.is_dir():
        raise StartError(f"workingDir {launch.directory} is no directory")
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(launch.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        return await asyncio.create_subprocess_exec(
            program,
            *launch.words[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=launch.directory,
            env={**launch.environment, **processes.mark(launch.family, launch.member)},
            start_new_session=True,
        )
    finally:
        os.close(log)


def _head(file: Path) -> str:
    """The first bytes of a termination message file; nothing where there is none."""
    try:
        with file.open("rb") as stream:
            return stream.read(MESSAGE_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _tail(log: Path) -> str:
    """The end of a log, as FallbackToLogsOnError takes it."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - FALLBACK_BYTES))
        text = stream.read().decode(errors="replace")
    return "".join(text.splitlines(keepends=True)[-FALLBACK_LINES:])


def _now() -> str:
    return rfc3339(datetime.now(UTC))
