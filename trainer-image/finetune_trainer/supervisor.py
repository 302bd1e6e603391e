"""PID 1 of a trainer pod: starts the stage, passes signals on, reaps, and answers for every ending.

Where several processes train together it starts this pod's ranks (`finetune_trainer.ranks`). The pod's first rank
answers for all; where another one failed before it, that one does, since the first only lost its company.

It imports nothing heavy while the stage runs: the API's types come in only where the stage left no answer.

How the stage's process ended → exit code:

- with a result that it wrote itself: the stage's own code, and 0 for a result that is good, even where the
  interpreter crashed after writing it;
- after SIGTERM or SIGINT came in, without a good result: TERMINATED, never 0;
- SIGKILL: OUT_OF_MEMORY if the kernel's count of out-of-memory kills rose or cannot be read, else INTERNAL;
- SIGBUS, SIGILL: HARDWARE, since another node may do (a failing disk or memory; a CPU without an instruction);
- STALLED: a step hung, and the stage's own watch ended it;
- SIGSEGV and all else: INTERNAL.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from finetune_trainer.ranks import of_this_pod

if TYPE_CHECKING:
    from finetune_api.stage import StageDocument
    from finetune_trainer.errors import StageFailure

# As in finetune_api.stage, which takes long to import.
_STAGE = "FINETUNE_STAGE"
_RESULT = "FINETUNE_RESULT_PATH"
_RANK_LOST = "RankLost"
# The pod says where these are, on its scratch volume, which begins empty. The root file system is read-only: without
# TMPDIR nothing could be written to for a moment, without HOME no library could keep a cache.
_FOLDERS = ("HOME", "TMPDIR", "FINETUNE_SCRATCH")
# Time to write a result, after another rank has failed.
_COMPANY_SECONDS = 15.0
_FORWARDED: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """Runs one command as the stage's process, or as its processes: one for each of `variables`."""

    def __init__(self, command: list[str], *variables: Mapping[str, str]) -> None:
        self._command = command
        self._variables = variables
        self._running: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._received: list[int] = []

    def run(self) -> int:
        """Runs the stage to its end, and returns the container's exit code."""
        for variables in self._variables:
            # A result from before would be taken for this run's.
            Path(variables[_RESULT]).write_bytes(b"")
        kills_before = out_of_memory_kills()
        for number in _FORWARDED:
            signal.signal(number, self._forward)
        for place, variables in enumerate(self._variables):
            self._running[os.posix_spawn(self._command[0], self._command, dict(variables))] = place
        for number in tuple(self._received):
            self._send(number)
        self._reap()
        return self._answer(self._first_failed() or 0, kills_before)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        self._send(number)

    def _send(self, number: int) -> None:
        for process in tuple(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def _reap(self) -> None:
        """Waits for the stage's processes, and for every orphan that ends before them.

        The others get some time to end by themselves once one has failed: without it they cannot go on.
        """
        deadline = None
        while self._running:
            process, status = os.waitpid(-1, 0 if deadline is None else os.WNOHANG)
            if process in self._running:
                place = self._running.pop(process)
                self._ended[place] = os.waitstatus_to_exitcode(status)
                if deadline is None and self._ended[place] != 0 and self._running:
                    deadline = time.monotonic() + _COMPANY_SECONDS
            elif process == 0:
                time.sleep(0.05)
            if deadline is not None and time.monotonic() > deadline:
                self._send(signal.SIGKILL)

    def _first_failed(self) -> int | None:
        """The process that failed first, but for those that only lost another; None where the first succeeded."""
        if _read(self._result(0)).get("ok") is True:
            return None
        failed = [place for place, code in self._ended.items() if code != 0]
        causes = [place for place in failed if _read(self._result(place)).get("reason") != _RANK_LOST]
        return next(iter(causes or failed), None)

    def _result(self, place: int) -> Path:
        return Path(self._variables[place][_RESULT])

    def _answer(self, place: int, kills_before: int | None) -> int:
        """The exit code that the process at `place` stands for, and its result as the pod's."""
        code, verdict = self._ended[place], _read(self._result(place)).get("ok")
        if place != 0:
            self._result(0).write_bytes(self._result(place).read_bytes())
        if verdict is True:
            return 0
        if verdict is False and code > 0:
            return code
        return self._answer_for(code, kills_before)

    def _answer_for(self, code: int, kills_before: int | None) -> int:
        """Writes the result that the stage did not write."""
        from finetune_api.stage import StageDocument  # noqa: PLC0415  (see the module's docstring)
        from finetune_trainer.result import failed, write_result  # noqa: PLC0415

        text = self._variables[0][_STAGE]
        try:
            document = StageDocument.model_validate_json(text)
        except ValueError as error:
            failure = _not_understood(error)
        else:
            failure = _failure(code, document, bool(self._received), kills_before)
        sys.stderr.write(f"the stage's process ended with {code}: {failure.message}\n")
        write_result(self._result(0), failed(json.loads(text)["key"], failure))
        return failure.exit_code


def _not_understood(error: ValueError) -> StageFailure:
    """What it means that the operator's document cannot be read: its version and the image's lie too far apart."""
    from finetune_api.stage import Reason  # noqa: PLC0415  (see the module's docstring)
    from finetune_trainer.errors import StageFailure  # noqa: PLC0415

    message = "this trainer image does not understand the operator's stage document: use the image of its own version"
    return StageFailure(Reason.INTERNAL, f"{message} ({' '.join(str(error).split())[:200]})")


def _failure(code: int, document: StageDocument, signalled: bool, kills_before: int | None) -> StageFailure:
    """What it means that the stage ended with `code` (negative: by that signal) and left no result."""
    from finetune_api.stage import ExitCode, Reason  # noqa: PLC0415  (see the module's docstring)
    from finetune_trainer.errors import StageFailure  # noqa: PLC0415
    from finetune_trainer.failures import out_of_memory  # noqa: PLC0415

    if signalled or -code in _FORWARDED:
        return StageFailure(Reason.TERMINATED, "ended from outside", exit_code=ExitCode.TERMINATED)
    if code == -signal.SIGKILL and _was_out_of_memory(kills_before):
        return out_of_memory(document, "killed by the kernel")
    if code == ExitCode.STALLED:
        seconds = (document.config.get("trainingArgs") or {}).get("stallSeconds", 1800)
        message = f"a step took longer than {seconds} s (trainingArgs.stallSeconds); the log has every thread's stack"
        return StageFailure(Reason.STALLED, message, exit_code=ExitCode.STALLED)
    if -code in (signal.SIGBUS, signal.SIGILL):
        message = f"killed by {signal.Signals(-code).name}: full shared memory, bad memory, or a CPU too old"
        return StageFailure(Reason.HARDWARE, message, exit_code=ExitCode.HARDWARE)
    ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code} and left no result"
    return StageFailure(Reason.INTERNAL, f"the stage's process {ending}", exit_code=ExitCode.INTERNAL)


def _read(path: Path) -> dict[str, Any]:
    """The result in `path`; empty where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _was_out_of_memory(kills_before: int | None) -> bool:
    kills = out_of_memory_kills()
    return kills_before is None or kills is None or kills > kills_before


def out_of_memory_kills() -> int | None:
    """How many processes the kernel killed for memory: in our control group, else on the machine; None: unknown."""
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        with contextlib.suppress(OSError):
            match = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
            if match:
                return int(match[1])
    return None


def make_folders(variables: Mapping[str, str]) -> None:
    """Makes the folders that `variables` name; one that cannot be made is found out about where it is needed."""
    for name in _FOLDERS:
        if variables.get(name):
            with contextlib.suppress(OSError):
                Path(variables[name]).mkdir(parents=True, exist_ok=True)


def main() -> int:
    """Supervises `python -m finetune_trainer stage` in this environment, once for each rank of this pod."""
    make_folders(os.environ)
    return Supervisor([sys.executable, "-m", "finetune_trainer", "stage"], *of_this_pod(os.environ)).run()
