"""`finetune resume JOB`: let a suspended job go on."""

from __future__ import annotations

import argparse

from finetune_cli.arguments import add_job, add_output
from finetune_cli.changes import change


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job(parser)
    add_output(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Unset spec.suspend."""
    return change(arguments, {"suspend": False}, "goes on")
