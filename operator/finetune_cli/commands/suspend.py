"""`finetune suspend JOB`: stop a job's pods and keep what is done; `finetune resume` goes on from there."""

from __future__ import annotations

import argparse

from finetune_cli.arguments import add_job, add_output
from finetune_cli.changes import change


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job(parser)
    add_output(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Set spec.suspend."""
    return change(arguments, {"suspend": True}, "suspended; `finetune resume` goes on from what is done")
