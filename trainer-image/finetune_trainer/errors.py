"""How a stage fails on purpose: with a reason that status shows and an exit code that the operator acts on."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.problems import Problem
from finetune_api.stage import ExitCode, Reason


class StageFailure(Exception):  # noqa: N818  (a stage fails; the program does not err)
    """A stage ends here, and why.

    `exit_code` decides what the operator does next: BAD_INPUT and RESULT_REFUSED are never tried again.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        exit_code: ExitCode = ExitCode.BAD_INPUT,
        problems: Sequence[Problem] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.exit_code = exit_code
        self.problems = tuple(problems)


def bad_input(reason: Reason, problem: Problem) -> StageFailure:
    """The failure for one problem of the spec or of what it names."""
    return StageFailure(reason, str(problem), problems=[problem])
