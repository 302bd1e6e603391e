"""`finetune lineage JOB`: the tree from each published artifact back to its data and base model."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.tree import Tree

from finetune_cli.arguments import add_artifacts, add_job, add_output, dumped
from finetune_cli.commands.download import chosen
from finetune_cli.connection import Cluster
from finetune_cli.errors import ExitCode, job_failed
from finetune_cli.lineage import Origin, origin
from finetune_cli.published import add_endpoint, open_bucket
from finetune_cli.standing import status_of

WIDE = 500


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job(parser)
    add_artifacts(parser)
    add_endpoint(parser)
    add_output(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the trees; 1 where a manifest on the way is not the one that was built on."""
    cluster = Cluster.connect(arguments)
    job = cluster.job(arguments.name)
    status = status_of(job)
    bucket, root = open_bucket(cluster, job, arguments.endpoint), job["spec"]["storage"]["uri"]
    keys = {stage.name: stage.key for stage in status.stages}
    found: dict[str, Origin] = {}
    for artifact in chosen(status, arguments.artifacts, arguments.name):
        key = keys.get(artifact.stage)
        if key is None:
            raise job_failed(f"the status names no content key of stage {artifact.stage}, which made {artifact.name}")
        found[artifact.name] = origin(bucket.read, root, key, artifact.digest)
    if arguments.output:
        print(dumped({name: item.wire() for name, item in found.items()}, arguments.output), end="")
        return ExitCode.OK
    console = Console()
    if not console.is_terminal:
        # Nobody looks at it: a line is as long as it is.
        console.width = WIDE
    shown: set[Origin] = set()
    for name, item in found.items():
        trunk = Tree(f"[bold]{name}[/]")
        _grow(trunk, item, shown)
        console.print(trunk)
    return ExitCode.OK


def _grow(tree: Tree, item: Origin, shown: set[Origin]) -> None:
    """Add `item` and what it was made from; what was shown before is named once more, and not taken apart again."""
    if item in shown:
        if item.made_from:
            tree.add(f"{item.name}  [dim]as above[/]")
        return
    shown.add(item)
    branch = tree.add(f"{item.name}  [dim]{', '.join(item.facts)}[/]")
    for below in item.made_from:
        _grow(branch, below, shown)
