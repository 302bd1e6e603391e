"""`finetune download JOB`: a job's artifacts into a folder, every file checked against its manifest."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from finetune_api.status import ArtifactStatus, Status
from finetune_cli import results
from finetune_cli.arguments import add_artifacts, add_folder, add_job, add_output, dumped
from finetune_cli.connection import Cluster
from finetune_cli.errors import ExitCode, invalid
from finetune_cli.published import add_endpoint, open_bucket
from finetune_cli.standing import status_of
from finetune_cli.words import size

DESCRIPTION = """\
Fetch what a job has published: all of it, or the artifacts that are named. Every file's size and sha256 are checked.

The storage's keys are read from the Secret that the job names, so the right to read it is needed. Where the store has
another address from here than from the cluster (a forwarded port, say), --endpoint gives it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    add_job(parser)
    add_artifacts(parser)
    add_folder(parser)
    add_output(parser)
    add_endpoint(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Fetch; 0 where every file is right."""
    cluster = Cluster.connect(arguments)
    job = cluster.job(arguments.name)
    wanted = chosen(status_of(job), arguments.artifacts, arguments.name)
    bucket = open_bucket(cluster, job, arguments.endpoint)
    folder = arguments.dir or Path("finetune-output") / arguments.name
    done = []
    for artifact in wanted:
        fetched = results.fetch(bucket, artifact, folder)
        done.append({**asdict(fetched), "folder": str(fetched.folder), "uri": artifact.uri, "digest": artifact.digest})
        if not arguments.output:
            print(f"{fetched.name:<8} {size(fetched.bytes):>9}  {fetched.folder}  ({fetched.files} files)", flush=True)
    if arguments.output:
        print(dumped(done, arguments.output), end="")
    return ExitCode.OK


def chosen(status: Status, names: list[str], job: str) -> list[ArtifactStatus]:
    """The published artifacts of these names, all where none is given. Raises CliError for one that is not there."""
    there = {artifact.name: artifact for artifact in status.artifacts}
    if not there:
        raise invalid(f"{job} has published nothing yet: it is {status.phase}. {status.message or ''}".rstrip())
    for name in names:
        if name not in there:
            raise invalid(f"{job} has published no {name}; there: {', '.join(there)}")
    return [there[name] for name in names] if names else list(there.values())
