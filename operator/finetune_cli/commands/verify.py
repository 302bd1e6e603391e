"""`finetune verify WHERE`: whether published files are, byte for byte, what their manifests say."""

from __future__ import annotations

import argparse
import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from finetune_api import layout
from finetune_api.stage import ModelManifest
from finetune_cli.arguments import add_cluster, add_output, completed_by, dumped
from finetune_cli.completing import published_jobs
from finetune_cli.connection import Cluster
from finetune_cli.errors import ExitCode, invalid, job_failed
from finetune_cli.jobfile import Body
from finetune_cli.published import valid_spec
from finetune_cli.standing import status_of
from finetune_trainer import verify
from finetune_trainer.errors import StageFailure
from finetune_trainer.objects import Objects

DESCRIPTION = """\
Check a stage's output or a published model: every manifest's digest, every file's size and sha256, nothing missing and
nothing beside them. WHERE is a folder, an s3:// or file:// URI, or ftj/NAME for what that FinetuneJob
has published, with the keys of the Secret that it names. Exit code 1: something is not what its manifest says; 2: WHERE
cannot be read.
"""
JOB = "ftj/"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    verify.add_arguments(parser)
    completed_by(next(item for item in parser._actions if item.dest == "where"), published_jobs)
    add_output(parser)
    add_cluster(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Check, a line for each artifact."""
    try:
        if arguments.where.startswith(JOB):
            verdicts = _of_job(arguments)
        else:
            if "://" not in arguments.where and not Path(arguments.where).exists():
                raise invalid(f"{arguments.where}: there is no such folder or file")
            verdicts = list(verify.verify(*verify.opened(arguments)))
    except StageFailure as failure:
        raise invalid(str(failure)) from failure
    if arguments.output:
        print(dumped([asdict(verdict) for verdict in verdicts], arguments.output), end="")
    else:
        print("\n".join(map(str, verdicts)))
    return ExitCode.FAILED if any(verdict.faults for verdict in verdicts) else ExitCode.OK


def _of_job(arguments: argparse.Namespace) -> list[verify.Verdict]:
    """Verdicts on all that the job's status names, whatever else the store says that it published."""
    name = arguments.where.removeprefix(JOB)
    cluster = Cluster.connect(arguments)
    job = cluster.job(name)
    status, storage = status_of(job), valid_spec(job).storage
    if not status.artifacts:
        raise invalid(f"{name} has published nothing yet: it is {status.phase}. {status.message or ''}".rstrip())
    published = layout.model_manifest_path(job["metadata"]["namespace"], name, status.observed_generation)
    arguments.where = layout.join(storage.uri, published)
    arguments.endpoint = arguments.endpoint or storage.endpoint
    arguments.region = arguments.region or storage.region
    reference = storage.credentials_secret_ref
    with _folder(cluster.secret(reference.name) if reference else None) as folder:
        arguments.credentials = arguments.credentials or folder
        objects, place = verify.opened(arguments)
        _refuse_other(objects, published, {item.name: item.digest for item in status.artifacts})
        return list(verify.verify(objects, place))


def _refuse_other(objects: Objects, path: str, digests: dict[str, str]) -> None:
    """Raises CliError where the published manifest does not name the artifacts of the job's status."""
    body = objects.read(path)
    if body is None:
        raise job_failed(f"{path} is missing from the store")
    named = {item.name: item.digest for item in ModelManifest.model_validate_json(body).artifacts}
    if named != digests:
        raise job_failed(f"{path} names other artifacts than the job's status: {named} instead of {digests}")


@contextmanager
def _folder(secret: Body | None) -> Iterator[Path | None]:
    """The Secret's values as files that nobody else may read, as a pod has them."""
    if secret is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        for key, value in secret["data"].items():
            (Path(folder) / key).write_bytes(base64.b64decode(value))
        yield Path(folder)
