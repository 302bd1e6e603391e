"""How a command ends: its exit codes, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command."""

    OK = 0
    JOB_FAILED = 1
    INVALID = 2
    ENVIRONMENT = 3
    INTERRUPTED = 130


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
    return CliError(ExitCode.JOB_FAILED, message)
