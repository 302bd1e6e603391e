"""`finetune watch JOB`: a job's stages as they happen, until it ends."""

from __future__ import annotations

import argparse
from contextlib import closing

from rich.console import Console

from finetune_api.status import Status
from finetune_cli.arguments import add_job
from finetune_cli.connection import Cluster
from finetune_cli.display import display
from finetune_cli.display.tree import tree
from finetune_cli.errors import ExitCode, job_failed
from finetune_cli.jobfile import Body
from finetune_cli.words import ended, failure

DESCRIPTION = """\
Show a job's stages as they happen: bars on a terminal, a line for each change elsewhere.

Ends with the job: exit code 0 where it succeeded, 1 where it failed or was deleted. A suspended job is waited for.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    add_job(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Follow the job to its end."""
    console = Console()
    last: tuple[Body, Status] = ({}, Status())
    with closing(display(console)) as shown:
        for last in Cluster.connect(arguments).statuses(arguments.name):
            shown.update(last[1])
    if not ended(last[1]):
        raise job_failed(f"{arguments.name} failed. {failure(last[1])}")
    console.print(tree(*last))
    return ExitCode.OK
