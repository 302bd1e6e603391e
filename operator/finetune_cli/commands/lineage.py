"""`finetune lineage WHERE`: the tree from each published artifact back to its data and base model."""

from __future__ import annotations

import argparse
from hashlib import sha256

from pydantic import ValidationError
from rich.console import Console
from rich.tree import Tree

from finetune_api import layout
from finetune_api.stage import Manifest, ModelManifest
from finetune_cli.arguments import add_artifacts, add_job, add_output, dumped
from finetune_cli.commands.download import chosen
from finetune_cli.connection import Cluster
from finetune_cli.errors import ExitCode, invalid, job_failed
from finetune_cli.lineage import Origin, origin
from finetune_cli.published import open_bucket
from finetune_cli.standing import status_of
from finetune_trainer import verify
from finetune_trainer.errors import StageFailure

DESCRIPTION = """\
Print what each artifact was made from, back to data and base model, by the manifests in the store. WHERE is a job, or,
without any cluster, the s3:// or file:// URI or the folder (with a slash in it) of a published model or of a stage.
"""
WIDE = 500


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    add_job(parser, metavar="WHERE", words="the FinetuneJob's name, or where its model is published")
    add_artifacts(parser)
    verify.add_connection(parser)
    add_output(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the trees; 1 where a manifest on the way is not the one that was built on."""
    # As `verify` and kubectl name a job.
    arguments.name = arguments.name.removeprefix("ftj/")
    found = _published(arguments) if "/" in arguments.name else _of_job(arguments)
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


def _of_job(arguments: argparse.Namespace) -> dict[str, Origin]:
    """By artifact, where those of a job in the cluster come from."""
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
        uri = layout.join(root, layout.manifest_path(key))
        found[artifact.name] = origin(lambda path: bucket.read(layout.join(root, path)), key, artifact.digest, uri)
    return found


def _published(arguments: argparse.Namespace) -> dict[str, Origin]:
    """By artifact, where what a store holds at a place comes from: a published model's, or one stage's."""
    arguments.where = arguments.name
    try:
        objects, folder = verify.opened(arguments)

        def read(path: str) -> bytes:
            body = objects.read(path)
            if body is None:
                raise job_failed(f"{path} is missing from the store")
            return body

        path = layout.join(folder, verify.MANIFEST) if folder else verify.MANIFEST
        text = objects.read(path)
        if text is None:
            raise invalid(f"{arguments.where} holds no {verify.MANIFEST}: name a published model, or a stage's output")
        try:
            model = ModelManifest.model_validate_json(text)
        except ValidationError:
            key = _stage_key(text, arguments.where)
            return {key[:12]: origin(read, key, sha256(text).hexdigest())}
        wanted = {item.name: item for item in model.artifacts}
        for name in arguments.artifacts:
            if name not in wanted:
                raise invalid(f"{arguments.where} has no {name}; there: {', '.join(wanted)}")
        names = arguments.artifacts or list(wanted)
        return {name: origin(read, wanted[name].key, wanted[name].digest) for name in names}
    except StageFailure as failure:
        raise invalid(str(failure)) from failure


def _stage_key(text: bytes, where: str) -> str:
    try:
        return Manifest.model_validate_json(text).key
    except ValidationError as error:
        raise invalid(f"{where} holds a {verify.MANIFEST} that is none: {error.errors()[0]['msg']}") from error


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
