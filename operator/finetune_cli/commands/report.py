"""`finetune report JOB`: fetch a job's report, and open it."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from finetune_cli import results
from finetune_cli.arguments import add_folder, add_job, add_output, tell
from finetune_cli.commands.download import chosen
from finetune_cli.connection import Cluster
from finetune_cli.errors import ExitCode
from finetune_cli.published import add_endpoint, open_bucket
from finetune_cli.standing import status_of

REPORT = "report"
PAGE = "report.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job(parser)
    add_folder(parser)
    add_output(parser)
    parser.add_argument("--no-open", action="store_true", help="fetch it only, and print where it is")
    add_endpoint(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Fetch the report, and show it in the browser."""
    cluster = Cluster.connect(arguments)
    job = cluster.job(arguments.name)
    (artifact,) = chosen(status_of(job), [REPORT], arguments.name)
    folder = arguments.dir or Path("finetune-output") / arguments.name
    fetched = results.fetch(open_bucket(cluster, job, arguments.endpoint), artifact, folder)
    page = (fetched.folder / PAGE).absolute()
    tell({"page": str(page), "digest": artifact.digest}, str(page), arguments.output)
    if not arguments.no_open:
        webbrowser.open(page.as_uri())
    return ExitCode.OK
