"""`finetune retry JOB`: run an ended job again. Stages whose result is in the store already are re-used."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from finetune_cli.arguments import add_job, add_output
from finetune_cli.changes import change


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job(parser)
    add_output(parser)
    parser.add_argument("--run-id", metavar="WORD", help="the new spec.runId; default: the present time")


def execute(arguments: argparse.Namespace) -> int:
    """Set spec.runId to something new."""
    run_id = arguments.run_id or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return change(arguments, {"runId": run_id}, f"runs again, as run {run_id}; what is in the store is re-used")
