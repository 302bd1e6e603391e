"""`finetune gc WHERE`: what of a store nobody needs any more, and, when asked to, away with it."""

from __future__ import annotations

import argparse
import time

from finetune_cli.arguments import add_cluster, add_output, dumped
from finetune_cli.connection import Cluster
from finetune_cli.errors import ExitCode, invalid
from finetune_cli.garbage import Jobs, garbage
from finetune_cli.words import size
from finetune_trainer import verify
from finetune_trainer.errors import StageFailure

DESCRIPTION = """\
Find the outputs, checkpoints and failures' evidence in a store that are older than --older-than days, that no published
model was made from, and that no FinetuneJob of the cluster refers to, in any namespace. WHERE is a storage.uri (s3://…)
or a folder. Nothing is deleted without --delete.

The cluster is asked for its jobs, so the right to list FinetuneJobs in all namespaces is needed; --no-cluster takes the
jobs as gone. A job that is made while gc runs may find an output that goes just then: it computes it again, or fails
and says so.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument("where", metavar="WHERE", help="a job's storage.uri, or a folder that is such a store")
    verify.add_connection(parser)
    parser.add_argument("--older-than", type=_days, default=30.0, metavar="DAYS", help="default: 30")
    parser.add_argument("--delete", action="store_true", help="delete what was found; without it nothing is")
    parser.add_argument("--no-cluster", action="store_true", help="ask no cluster; every job is taken as gone")
    add_output(parser)
    add_cluster(parser)


def _days(text: str) -> float:
    days = float(text)
    if days < 0:
        raise argparse.ArgumentTypeError("a number of days, 0 or more")
    return days


def execute(arguments: argparse.Namespace) -> int:
    """List what nobody needs, and delete it where that was asked for."""
    jobs = Jobs() if arguments.no_cluster else _jobs(Cluster.connect(arguments), arguments.where)
    try:
        objects, folder = verify.opened(arguments)
        if folder:
            raise invalid(f"{arguments.where} is a part of a store; give the whole, a job's storage.uri")
        found = garbage(objects.list(""), objects.read, jobs, time.time(), arguments.older_than)
        if arguments.delete:
            objects.delete([key for item in found for key in item.keys])
    except StageFailure as failure:
        raise invalid(str(failure)) from failure
    if arguments.output:
        items = [{"what": item.what, "why": item.why, "bytes": item.bytes, "days": item.days} for item in found]
        print(dumped({"deleted": arguments.delete, "garbage": items}, arguments.output), end="")
        return ExitCode.OK
    for item in found:
        print(f"{size(item.bytes):>9}  {item}")
    total = size(sum(item.bytes for item in found))
    print(f"{total} in {len(found)} places" + (", deleted" if arguments.delete else "; --delete deletes it"))
    return ExitCode.OK


def _jobs(cluster: Cluster, where: str) -> Jobs:
    """Of the cluster's jobs, those that write to `where`."""
    found = [job for job in cluster.all_jobs() if _root(job["spec"]["storage"]["uri"]) == _root(where)]
    stages = [stage for job in found for stage in (job.get("status") or {}).get("stages", [])]
    return Jobs(
        frozenset(job["metadata"]["uid"] for job in found),
        frozenset(stage["key"] for stage in stages if stage.get("key")),
    )


def _root(uri: str) -> str:
    return uri.rstrip("/")
