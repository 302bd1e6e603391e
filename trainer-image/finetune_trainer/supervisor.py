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
- AGAIN: on one of the ranks a pass did not fit: all are started again, with a smaller one;
- SIGSEGV and all else: INTERNAL.

A stage that ended without an answer left no evidence either, so the supervisor leaves it: it has the end of what the
stage's processes wrote. Where the kernel kills the whole container, as the kubelet has it do with memory's control
group, nobody is left to.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from finetune_trainer.passing_on import PassedOn, Tail
from finetune_trainer.ranks import AGAIN, TRIES_ENV, of_this_pod, said_by

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
# Passes are halved each time.
_MOST_STARTS = 32
_FORWARDED: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
# In place of the key that a document which cannot be read does not say.
_NO_KEY = "0" * 64


class Supervisor:
    """Runs one command as the stage's process, or as its processes: one for each of `variables`."""

    def __init__(self, command: list[str], *variables: Mapping[str, str]) -> None:
        self._command = command
        self._variables = variables
        self._running: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._received: list[int] = []
        self._tail = Tail()

    def run(self) -> int:
        """Runs the stage to its end, and returns the container's exit code."""
        kills_before = out_of_memory_kills()
        for number in _FORWARDED:
            signal.signal(number, self._forward)
        for tries in range(_MOST_STARTS):
            self._run_once(tries)
            place = self._first_failed() or 0
            if self._received or self._ended[place] != AGAIN:
                break
        return self._answer(place, kills_before)

    def _run_once(self, tries: int) -> None:
        """Starts the stage's processes and waits for them, which were started so often before."""
        self._ended.clear()
        for variables in self._variables:
            # A result from before would be taken for this run's.
            Path(variables[_RESULT]).write_bytes(b"")
        passed_on = [PassedOn(stream.fileno(), self._tail, _FORWARDED) for stream in (sys.stdout, sys.stderr)]
        actions = [(os.POSIX_SPAWN_DUP2, item.writer, number) for number, item in enumerate(passed_on, start=1)]
        for place, variables in enumerate(self._variables):
            own = {**variables, **({TRIES_ENV: str(tries)} if tries else {})}
            process = os.posix_spawn(self._command[0], self._command, own, file_actions=actions)
            self._running[process] = place
        for item in passed_on:
            item.close()
        for number in tuple(self._received):
            self._send(number)
        self._reap()
        for item in passed_on:
            item.finish()

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
        """Writes the result that the stage did not write, and leaves evidence in its place."""
        from finetune_api.stage import Reason, StageDocument  # noqa: PLC0415  (see the module's docstring)
        from finetune_trainer.result import failed, write_result  # noqa: PLC0415

        text = self._variables[0].get(_STAGE, "")
        try:
            document = StageDocument.model_validate_json(text)
        except ValueError as error:
            failure, key = _not_understood(error), said_by(text).get("key")
        else:
            failure, key = _failure(code, document, bool(self._received), kills_before), document.key
        sys.stderr.write(f"the stage's process ended with {code}: {failure.message}\n")
        sys.stderr.flush()
        # A stage that failed and then crashed on its way out has left more than its supervisor could.
        left = _read(self._result(0)).get("evidence") is True
        result = failed(key if isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key) else _NO_KEY, failure)
        # Before the store is asked, which may take longer than this pod has.
        write_result(self._result(0), result)
        if left or (failure.reason is not Reason.TERMINATED and self._left_evidence(code, failure)):
            write_result(self._result(0), result.model_copy(update={"evidence": True}))
        return failure.exit_code

    def _left_evidence(self, code: int, failure: StageFailure) -> bool:
        """Whether the dead process's last words are in the store."""
        from finetune_trainer.environment import read_environment  # noqa: PLC0415  (see the module's docstring)
        from finetune_trainer.post_mortem import leave_texts  # noqa: PLC0415
        from finetune_trainer.report import Reporter  # noqa: PLC0415

        try:
            environment = read_environment(self._variables[0])
        except (KeyError, ValueError):
            return False
        trace = (
            f"The stage's process {_ending(code)}, without a traceback of its own.\n"
            f"log.txt is the end of what it wrote.\n{failure.reason}: {failure.message}\n"
        )
        return leave_texts(environment, Reporter(), self._tail.text(), trace)


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
    return StageFailure(Reason.INTERNAL, f"the stage's process {_ending(code)}", exit_code=ExitCode.INTERNAL)


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code} and left no result"


def _read(path: Path) -> dict[str, Any]:
    """The result in `path`; empty where there is none."""
    return said_by(path.read_bytes())


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
