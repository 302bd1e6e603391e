"""`finetune status JOB`: the stages of a job, how far each is, and why it stands where it stands."""

from __future__ import annotations

import argparse

from rich.console import Console

from finetune_cli.arguments import add_job, add_output, dumped
from finetune_cli.connection import Cluster
from finetune_cli.display.tree import show
from finetune_cli.errors import ExitCode
from finetune_cli.standing import status_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job(parser)
    add_output(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Show the status; 0 whatever it is."""
    job = Cluster.connect(arguments).job(arguments.name)
    if arguments.output:
        print(dumped(job.get("status") or {}, arguments.output), end="")
    else:
        show(Console(), job, status_of(job))
    return ExitCode.OK
