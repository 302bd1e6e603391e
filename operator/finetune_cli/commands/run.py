"""`finetune run JOB.yaml`: a local cluster for one job, and its results in a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from finetune_api.olive import Options
from finetune_cli import loop
from finetune_cli.arguments import add_folder
from finetune_cli.errors import ExitCode, invalid
from finetune_cli.jobfile import Body
from finetune_cli.localise import Upload
from finetune_cli.olivefile import import_file, note_lines
from finetune_cli.session import Request, report, run_job
from finetune_cli.stack import local_stack
from finetune_cli.staying import offer, state_folder, stay

DESCRIPTION = """\
Start a local cluster, run the job of JOB.yaml on it, and fetch its artifacts.

inputModel.modelPath (where it begins with ./, ../, / or ~) and dataFiles may be local paths, relative to the job
file: they are uploaded to the local cluster's storage. A job without spec.storage is given the local one. A Secret,
ConfigMap, PersistentVolumeClaim or Namespace beside the job is applied first.

With --config the job is what `finetune import` makes of a configuration of Olive's, its local paths as they are.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("job", nargs="?", metavar="JOB.yaml", help="the job file; - is standard input")
    what.add_argument(
        "--config", metavar="OLIVE-CONFIG", help="import a configuration of Olive's and run that; paths start from it"
    )
    parser.add_argument("--qlora", action="store_true", help="with --config: turn LoRA passes into QLoRA")
    add_folder(parser)
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="keep the cluster's storage here: a later run with it re-uses results; default: a temporary folder",
    )
    parser.add_argument("--keep", action="store_true", help="keep the cluster up afterwards, until Ctrl-C")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after so long; default: never")
    parser.add_argument("--cpu", action="store_true", help="remove nvidia.com/gpu from the job's systems")
    parser.add_argument(
        "--upload",
        action="append",
        default=[],
        type=_upload,
        metavar="PATH=URI",
        help="put a file or folder at an s3:// URI of the local storage first; may be given again",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Run the job; 0 where it succeeded and its artifacts are in the folder."""
    return loop.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    request = Request(
        job_file=arguments.config or arguments.job,
        job=imported(arguments) if arguments.config else None,
        output=arguments.dir,
        cpu=arguments.cpu,
        patience=arguments.timeout,
        uploads=arguments.upload,
    )
    with state_folder(arguments.state) as state:
        async with local_stack(state) as stack:
            finished = await stack.while_up(run_job(stack, request))
            print("\n".join(report(finished)), flush=True)
            if arguments.keep:
                print("\n".join(offer(stack, finished)), flush=True)
                await stack.while_up(stay())
    return ExitCode.OK


def imported(arguments: argparse.Namespace) -> Body:
    """The job for `--config`, with what is to be said of it on stderr. Raises CliError."""
    found = import_file(arguments.config, Options(qlora=arguments.qlora, here=True, cpu=arguments.cpu))
    for line in note_lines(found.notes):
        print(line, file=sys.stderr)
    return found.job()


def _upload(text: str) -> Upload:
    path, _, uri = text.partition("=")
    if not uri.startswith("s3://"):
        raise argparse.ArgumentTypeError(f"{text}: PATH=s3://bucket/key is wanted")
    if not Path(path).exists():
        raise invalid(f"--upload {path}: there is no such file or folder")
    return Upload(Path(path), uri)
