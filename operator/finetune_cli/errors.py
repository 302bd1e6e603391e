"""How a command ends: its exit codes, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command; docs/cli.md has the table, which a test compares."""

    OK = 0
    # The answer is no: the job failed, or files are not what their manifest says.
    FAILED = 1
    # What was asked for cannot be: wrong usage, an invalid job, a name that is not there.
    INVALID = 2
    # Something is missing on this machine, or does not answer, or refuses.
    ENVIRONMENT = 3
    # The time that --timeout gave was not enough; the job goes on.
    TIMEOUT = 4
    # sysexits.h's EX_SOFTWARE: an error of this program's own.
    INTERNAL = 70
    # 128 + SIGINT, and 128 + SIGPIPE, as shells say it.
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CliError(Exception):
    """A command ends here. The message is all that its user sees: what is wrong, where, and what to do."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> CliError:
    """What the user gave cannot be used."""
    return CliError(ExitCode.INVALID, message)


def environment(message: str) -> CliError:
    """Something on this machine is missing or does not answer."""
    return CliError(ExitCode.ENVIRONMENT, message)


def job_failed(message: str) -> CliError:
    """The job itself did not come to a good end."""
    return CliError(ExitCode.FAILED, message)


def timed_out(message: str) -> CliError:
    """It was not done in the time that was given."""
    return CliError(ExitCode.TIMEOUT, message)
