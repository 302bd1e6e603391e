"""PID 1 of a trainer pod: starts the stage, passes signals on, reaps, and answers for every ending.

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
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_api.stage import StageDocument
    from finetune_trainer.errors import StageFailure

# As in finetune_api.stage, which takes long to import.
_STAGE = "FINETUNE_STAGE"
_RESULT = "FINETUNE_RESULT_PATH"
_FORWARDED: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """Runs one command as the stage's process."""

    def __init__(self, command: list[str], variables: Mapping[str, str]) -> None:
        self._command = command
        self._variables = variables
        self._child: int | None = None
        self._received: list[int] = []

    def run(self) -> int:
        """Runs the stage to its end, and returns the container's exit code."""
        result = Path(self._variables[_RESULT])
        # A result from before would be taken for this run's.
        result.write_bytes(b"")
        kills_before = out_of_memory_kills()
        for number in _FORWARDED:
            signal.signal(number, self._forward)
        self._child = os.posix_spawn(self._command[0], self._command, dict(self._variables))
        for number in tuple(self._received):
            self._send(number)
        status = self._reap()
        return self._answer(status, result, kills_before)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        self._send(number)

    def _send(self, number: int) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)

    def _reap(self) -> int:
        """Waits for the stage, and for every orphan that ends before it; returns the stage's wait status."""
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == self._child:
                self._child = None
                return status

    def _answer(self, status: int, result: Path, kills_before: int | None) -> int:
        code = os.waitstatus_to_exitcode(status)
        verdict = _read_verdict(result)
        if verdict is True:
            return 0
        if verdict is False and code > 0:
            return code
        return self._answer_for(code, result, kills_before)

    def _answer_for(self, code: int, result: Path, kills_before: int | None) -> int:
        """Writes the result that the stage did not write."""
        from finetune_api.stage import StageDocument  # noqa: PLC0415  (see the module's docstring)
        from finetune_trainer.result import failed, write_result  # noqa: PLC0415

        document = StageDocument.model_validate_json(self._variables[_STAGE])
        failure = _failure(code, document, bool(self._received), kills_before)
        sys.stderr.write(f"the stage's process ended with {code}: {failure.message}\n")
        write_result(result, failed(document.key, failure))
        return failure.exit_code


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


def _read_verdict(path: Path) -> bool | None:
    """Whether the result in `path` is good; None where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return None
    ok = content.get("ok") if isinstance(content, dict) else None
    return ok if isinstance(ok, bool) else None


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


def main() -> int:
    """Supervises `python -m finetune_trainer stage` in this environment."""
    return Supervisor([sys.executable, "-m", "finetune_trainer", "stage"], os.environ).run()
