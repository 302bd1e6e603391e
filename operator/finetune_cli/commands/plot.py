"""`finetune plot JOB`: the loss of a training in the terminal."""

from __future__ import annotations

import argparse
import shutil

from finetune_api.status import StageStatus, Status
from finetune_cli.arguments import add_job, add_output, dumped
from finetune_cli.connection import Cluster
from finetune_cli.curve import Curve, drawn
from finetune_cli.errors import ExitCode, invalid
from finetune_cli.jobfile import Body
from finetune_cli.published import add_endpoint, open_bucket, training_log
from finetune_cli.standing import status_of

DESCRIPTION = """\
Draw the loss of a job's training, from the log that was published with the adapter, else from the pod's own log while
that is there.
"""
FIGURES = {"loss": "loss", "eval-loss": "eval_loss", "learning-rate": "learning_rate", "grad-norm": "grad_norm"}
TRAINING = ("LoRA", "QLoRA", "DoRA")
MARGIN = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    add_job(parser)
    add_output(parser)
    parser.add_argument("--figure", choices=FIGURES, default="loss", help="what is drawn (%(default)s)")
    parser.add_argument("--width", type=int, metavar="COLUMNS", help="default: the terminal's")
    parser.add_argument("--height", type=int, default=16, metavar="ROWS", help="(%(default)s)")
    add_endpoint(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Draw; 2 where there is nothing to draw yet."""
    cluster = Cluster.connect(arguments)
    job = cluster.job(arguments.name)
    stage = _training_stage(status_of(job), arguments.name)
    curve = Curve.read(_lines(cluster, job, stage, arguments.endpoint), FIGURES[arguments.figure])
    if len(curve) < 2:
        raise invalid(f"stage {stage.name} of {arguments.name} has reported {len(curve)} points of {arguments.figure}")
    if arguments.output:
        points = [
            {"step": step, arguments.figure: value} for step, value in zip(curve.steps, curve.values, strict=True)
        ]
        print(dumped(points, arguments.output), end="")
        return ExitCode.OK
    width = arguments.width or max(40, shutil.get_terminal_size().columns - MARGIN)
    print(drawn(curve, f"{arguments.name}: {arguments.figure} by step", width, arguments.height))
    return ExitCode.OK


def _training_stage(status: Status, job: str) -> StageStatus:
    found = next((stage for stage in status.stages if stage.type in TRAINING), None)
    if found is None:
        raise invalid(f"{job} trains nothing: it has no pass of type {', '.join(TRAINING)}")
    return found


def _lines(cluster: Cluster, job: Body, stage: StageStatus, endpoint: str | None) -> list[str]:
    """The trainer's lines of progress, published or from the newest pod."""
    if stage.digest is not None and stage.key is not None:
        bucket, root = open_bucket(cluster, job, endpoint), job["spec"]["storage"]["uri"]
        published = training_log(bucket, root, stage.key, stage.digest)
        if published is not None:
            return published
    pods = cluster.pods(job["metadata"]["name"], stage.name)
    return list(cluster.log(pods[-1]["metadata"]["name"], follow=False, tail=None)) if pods else []
