"""One job on a running local cluster, from its file to its results in a folder."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from finetune_api import rules
from finetune_api.status import Status
from finetune_cli import apply, results
from finetune_cli.bucket import Bucket
from finetune_cli.checks import problems_of
from finetune_cli.display import display
from finetune_cli.errors import invalid, job_failed, timed_out
from finetune_cli.follow import follow
from finetune_cli.jobfile import STDIN, Body, name_of, namespace_of, read_documents, split_job
from finetune_cli.localise import Localised, Upload, localise
from finetune_cli.results import Fetched
from finetune_cli.stack import Stack
from finetune_cli.words import ended, failure, size
from finetune_local.client import SECRETS


@dataclass(frozen=True)
class Request:
    """What to run: a job file, where its results go (`output`/<artifact>), and after how many seconds to give up.

    Where `job` is given, it was made from the file, which only says where relative paths start.
    """

    job_file: str
    job: Body | None = None
    output: Path | None = None
    cpu: bool = False
    patience: float | None = None
    uploads: Sequence[Upload] = field(default_factory=tuple)

    @property
    def folder(self) -> Path:
        """The folder that the job file's relative paths start from."""
        return Path.cwd() if self.job_file == STDIN else Path(self.job_file).absolute().parent

    def output_of(self, job: Body) -> Path:
        """Where the results of `job` go."""
        return self.output or Path("finetune-output") / name_of(job)


@dataclass(frozen=True)
class Finished:
    """A run that succeeded: its last status, what was fetched, its seconds, and its storage for further questions."""

    name: str
    namespace: str
    status: Status
    fetched: list[Fetched]
    seconds: float
    bucket: Bucket
    root: str


async def run_job(stack: Stack, request: Request) -> Finished:
    """Upload, apply, follow, fetch. Raises CliError where the file is invalid or the job fails."""
    if request.job is None:
        job, companions = split_job(request.job_file, read_documents(request.job_file))
    else:
        job, companions = request.job, []
    ready = localise(job, request.folder, stack.storage, cpu=request.cpu)
    _refuse_invalid(request.job_file, ready.job)
    await _provide(stack, ready, companions, request.uploads)
    started = time.monotonic()
    status = await _followed(stack, await apply.start_job(stack.client, ready.job), request.patience)
    seconds = time.monotonic() - started
    if not ended(status):
        raise job_failed(f"{name_of(job)} failed. {failure(status)}")
    bucket, root = await _storage_of(stack, ready.job)
    output = request.output_of(job)
    fetched = [await asyncio.to_thread(results.fetch, bucket, artifact, output) for artifact in status.artifacts]
    return Finished(name_of(job), namespace_of(job), status, fetched, seconds, bucket, root)


def report(finished: Finished) -> list[str]:
    """Lines that say how the run ended and where everything is."""
    status = finished.status
    lines = [f"{finished.name}: {status.phase} in {finished.seconds:.1f} s. {status.message or ''}", ""]
    if status.artifacts:
        lines.append("Artifacts:")
    for artifact in status.artifacts:
        lines.append(f"  {artifact.name:<8} {size(artifact.bytes or 0):>9}  {artifact.uri}")
    if finished.fetched:
        lines += ["", "Fetched, every file's sha256 checked:"]
    for item in finished.fetched:
        lines.append(f"  {item.name:<8} {size(item.bytes):>9}  {item.folder}  ({item.files} files)")
    return lines


def _refuse_invalid(path: str, job: Body) -> None:
    found = problems_of(job)
    if found:
        raise invalid("\n".join([f"{path}: {name_of(job)} is not valid:", *(f"  {item}" for item in found)]))


async def _provide(stack: Stack, ready: Localised, companions: list[Body], uploads: Sequence[Upload]) -> None:
    """Everything that the job needs to find: its namespace, its neighbours of the file, its inputs."""
    for note in ready.notes:
        print(f"note: {note}", file=sys.stderr)
    await stack.ensure_namespace(namespace_of(ready.job))
    for document in companions:
        await apply.apply_companion(stack.client, document)
    for upload in [*uploads, *ready.uploads]:
        await asyncio.to_thread(stack.bucket.upload, upload.source, upload.uri)


async def _followed(stack: Stack, job: Body, patience: float | None) -> Status:
    """The final status, every one before it shown; `patience` is in seconds."""
    status = Status()
    with closing(display(Console())) as shown:
        try:
            async with asyncio.timeout(patience):
                async for status in follow(stack.client, job):
                    shown.update(status)
        except TimeoutError:
            raise timed_out(
                f"{name_of(job)} did not end in {patience:g} s; it was {status.phase}: {status.message or ''}"
            ) from None
    return status


async def _storage_of(stack: Stack, job: Body) -> tuple[Bucket, str]:
    """The job's own storage, opened with the Secret that it names."""
    spec, _ = rules.check(job["spec"])
    if spec is None:
        raise invalid(f"{name_of(job)} is not valid")
    reference = spec.storage.credentials_secret_ref
    if reference is None:
        return Bucket(spec.storage, {}), spec.storage.uri
    secret = await stack.client.get(SECRETS.path(namespace_of(job), reference.name))
    return Bucket.by_secret(spec.storage, secret), spec.storage.uri
