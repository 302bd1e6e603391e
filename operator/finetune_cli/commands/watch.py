"""`finetune watch JOB`: a job's stages as they happen, until it ends."""

from __future__ import annotations

import argparse
import json
from contextlib import closing

from rich.console import Console

from finetune_api.status import Status
from finetune_cli.arguments import add_job, add_output
from finetune_cli.connection import Cluster
from finetune_cli.display import display
from finetune_cli.display.tree import show_end
from finetune_cli.errors import ExitCode, job_failed
from finetune_cli.jobfile import Body
from finetune_cli.words import ended, evidence, failure
from finetune_cli.yamltext import dump

DESCRIPTION = """\
Show a job's stages as they happen: bars on a terminal, a line for each change elsewhere. -o json prints the status on
one line whenever it changes, -o yaml a document for each.

Ends with the job: exit code 0 where it succeeded, 1 where it failed or was deleted, 4 where --timeout has passed. A
suspended job is waited for.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    add_job(parser)
    add_output(parser)
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after so long; default: never")


def execute(arguments: argparse.Namespace) -> int:
    """Follow the job to its end."""
    console = Console()
    last: tuple[Body, Status] = ({}, Status())
    statuses = Cluster.connect(arguments).statuses(arguments.name, arguments.timeout)
    with closing(Documents(arguments.output) if arguments.output else display(console)) as shown:
        for last in statuses:
            shown.update(last[1])
    if not ended(last[1]):
        left = "".join(f"\n{line}" for line in evidence(last[1]))
        raise job_failed(f"{arguments.name} failed. {failure(last[1])}{left}")
    if not arguments.output:
        show_end(console, last[1])
    return ExitCode.OK


class Documents:
    """Every status for programs: a line of JSON, or a document of YAML."""

    def __init__(self, form: str) -> None:
        self._form = form

    def update(self, status: Status) -> None:
        """Print it."""
        value = status.wire()
        text = json.dumps(value, ensure_ascii=False) + "\n" if self._form == "json" else f"---\n{dump(value)}"
        print(text, end="", flush=True)

    def close(self) -> None:
        """Nothing to put back."""
