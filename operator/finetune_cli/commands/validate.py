"""`finetune validate FILE…`: everything that is wrong with job files, without a cluster."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from finetune_api import KIND
from finetune_cli.arguments import add_output, dumped
from finetune_cli.errors import CliError, ExitCode, invalid
from finetune_cli.findings import FileFindings, findings

DESCRIPTION = f"""\
Report everything that is wrong with the {KIND}s of YAML files: file, line, field, value and what to write instead.

YAML is read as kubectl reads it. Other objects are skipped and counted. No cluster is asked, so it serves as a
pre-commit hook and in the CI of a repository of manifests. Exit code 2: a job is invalid, a file cannot be read, or
no file holds a job.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument("files", nargs="+", metavar="FILE", help=f"YAML files with {KIND}s; - is standard input")
    add_output(parser)
    parser.add_argument("--allow-none", action="store_true", help=f"do not mind that there is no {KIND} at all")


def execute(arguments: argparse.Namespace) -> int:
    """Report on every file; 0 where all jobs are valid."""
    found, errors = _read(arguments.files)
    jobs = [job for file in found for job in file.jobs]
    if arguments.output:
        print(dumped({"files": [file.wire() for file in found], "errors": errors}, arguments.output), end="")
    else:
        for line in _lines(found):
            print(line)
    if errors and not arguments.output:
        raise invalid("\n".join(errors))
    if not jobs and not errors and not arguments.allow_none:
        print(f"no {KIND} in {', '.join(arguments.files)}", file=sys.stderr)
        return ExitCode.INVALID
    if len(arguments.files) > 1 and not arguments.output:
        print(_summary(found), file=sys.stderr)
    return ExitCode.INVALID if errors or any(job.problems for job in jobs) else ExitCode.OK


def _read(paths: list[str]) -> tuple[list[FileFindings], list[str]]:
    """What was found in the files that can be read, and what is wrong with the others."""
    found: list[FileFindings] = []
    errors: list[str] = []
    for path in paths:
        try:
            found.append(findings(path))
        except CliError as error:
            errors.append(str(error))
    return found, errors


def _lines(found: list[FileFindings]) -> list[str]:
    lines = []
    for file in found:
        lines += [f"{file.path}:{item.line}: {item.kind} {item.name}: not checked, no {KIND}" for item in file.skipped]
        for job in file.jobs:
            lines += [f"{file.path}:{item.line}: {job.name}: {item.problem}" for item in job.problems]
            if not job.problems:
                lines.append(f"{file.path}: {job.name}: valid")
    return lines


def _summary(found: list[FileFindings]) -> str:
    counted = Counter("invalid" if job.problems else "valid" for file in found for job in file.jobs)
    skipped = sum(len(file.skipped) for file in found)
    return f"{counted['valid']} valid, {counted['invalid']} invalid, {skipped} other objects not checked"
