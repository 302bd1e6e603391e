"""The stage's own process: runs it, and turns whatever ends it into a result and an exit code."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
import traceback

from finetune_api.stage import ExitCode, Reason, StageResult
from finetune_trainer import post_mortem
from finetune_trainer.environment import read_environment
from finetune_trainer.failures import failure_of
from finetune_trainer.report import Reporter
from finetune_trainer.result import failed, write_result
from finetune_trainer.severity import DEFAULT, Severity, silence_libraries
from finetune_trainer.stage import run_stage
from finetune_trainer.termination import Termination
from finetune_trainer.workplace import Workplace, open_workplace

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Runs the stage that the environment describes, and returns an `ExitCode`."""
    _die_with_parent()
    termination = Termination()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _terminate(termination))
    environment = read_environment(os.environ)
    os.environ.update(environment.tracker_variables())
    asked = environment.document.log_severity_level
    level = DEFAULT if asked is None else Severity(asked)
    silence_libraries(level)
    report = Reporter(None if os.environ.get("RANK", "0") == "0" else io.StringIO(), level)
    try:
        result, code = _run(open_workplace(environment, report, termination)), ExitCode.OK
    except BaseException as error:  # the entry point: everything that can end a stage is answered here
        failure = failure_of(error, environment.document)
        traceback.print_exception(error)
        result, code = failed(environment.document.key, failure), failure.exit_code
        report.log(f"{failure.reason}: {failure.message}", Severity.FATAL)
        # Whoever ends a pod waits for it, but not long.
        if code != ExitCode.TERMINATED:
            is_cause = failure.reason is not Reason.RANK_LOST
            left = post_mortem.leave(environment, report, error, is_cause=is_cause)
            result = result.model_copy(update={"evidence": left})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    write_result(environment.result, result)
    return code


def _run(place: Workplace) -> StageResult:
    """Runs the stage, together with other processes where the environment says so."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return run_stage(place)
    from finetune_trainer.training.distributed import join, leave  # noqa: PLC0415  (most stages do without torch)

    result = run_stage(place, join(os.environ))
    leave()
    return result


def _terminate(termination: Termination) -> None:
    """Asks the stage to end, once: further signals would interrupt the clean-up."""
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    termination.request()


def _die_with_parent() -> None:
    """No stage outlives its supervisor, which alone can answer for it. Linux only, as pods are."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
