"""`finetune logs JOB`: what the pods of a job's stages say."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pydantic import ValidationError

from finetune_api.stage import Progress
from finetune_api.status import StageProgress, StageState, Status
from finetune_cli.arguments import add_job, completed_by
from finetune_cli.completing import stages
from finetune_cli.connection import Cluster
from finetune_cli.errors import CliError, ExitCode, invalid
from finetune_cli.jobfile import Body
from finetune_cli.standing import status_of
from finetune_cli.words import ended, figures

DESCRIPTION = """\
Print the log of a stage's newest pod: of the stage at work, the failed one, else the last one that has a pod.

With -f the log is followed, and then that of each stage after it, until the job ends. Lines of progress, which are
JSON, are put in words; --raw leaves them.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    add_job(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    completed_by(parser.add_argument("--stage", metavar="NAME", help="this stage's log"), stages)
    parser.add_argument("--tail", type=int, metavar="N", help="the last N lines; default: all")
    parser.add_argument("--raw", action="store_true", help="leave lines of progress as the JSON that they are")


def execute(arguments: argparse.Namespace) -> int:
    """Print the log; 0 where there was one."""
    cluster = Cluster.connect(arguments)
    if arguments.follow:
        return _follow(cluster, arguments)
    job = cluster.job(arguments.name)
    stage = arguments.stage or _telling_stage(cluster, job)
    pods = _pods_with_log(cluster, arguments.name, stage, status_of(job))
    if not pods:
        left = next((item.evidence for item in status_of(job).stages if item.name == stage), None)
        raise invalid(
            f"stage {stage} of {arguments.name} has no pod with a log: it was re-used, waits, or its Job was cleaned up"
            + (f"; the end of its log is {left}/log.txt" if left else "")
        )
    _print(cluster.log(pods[-1], follow=False, tail=arguments.tail), arguments.raw)
    return ExitCode.OK


def _follow(cluster: Cluster, arguments: argparse.Namespace) -> int:
    seen: set[str] = set()
    for _, status in cluster.statuses(arguments.name):
        for stage in status.stages:
            if arguments.stage not in (None, stage.name) or stage.state in (StageState.PENDING, StageState.QUEUED):
                continue
            for pod in _pods_with_log(cluster, arguments.name, stage.name, status, of=stage.job):
                if pod in seen:
                    continue
                seen.add(pod)
                print(f"==> {stage.name}: {pod} <==", flush=True)
                _print_available(cluster, pod, arguments)
        if ended(status) is False:
            return ExitCode.FAILED
    return ExitCode.OK


def _print_available(cluster: Cluster, pod: str, arguments: argparse.Namespace) -> None:
    """The pod's log to its end, unless the pod is taken away meanwhile, which the next status tells of."""
    try:
        _print(cluster.log(pod, follow=True, tail=arguments.tail), arguments.raw)
    except CliError as error:
        print(f"({error})", flush=True)


def _telling_stage(cluster: Cluster, job: Body) -> str:
    """The stage whose log says most about where the job stands."""
    status = status_of(job)
    for state in (StageState.FAILED, StageState.RUNNING):
        for stage in status.stages:
            if stage.state == state:
                return stage.name
    for stage in reversed(status.stages):
        if cluster.pods(job["metadata"]["name"], stage.name):
            return stage.name
    raise invalid(f"{job['metadata']['name']} has no pods: it has not begun, or its Jobs were cleaned up")


def _pods_with_log(cluster: Cluster, job: str, stage: str, status: Status, of: str | None = None) -> list[str]:
    """Pods of `stage` whose container has started, oldest first; those of one attempt where `of` names its Job.

    Raises CliError where there is no such stage.
    """
    names = [item.name for item in status.stages]
    if stage not in names:
        raise invalid(f"{job} has no stage {stage}; there: {', '.join(names) or 'none yet'}")
    pods = [pod for pod in cluster.pods(job, stage) if of is None or of in _owners(pod)]
    return [pod["metadata"]["name"] for pod in pods if _started(pod)]


def _owners(pod: Body) -> list[str]:
    return [owner["name"] for owner in pod["metadata"].get("ownerReferences") or []]


def _started(pod: Body) -> bool:
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return any({"running", "terminated"} & (item.get("state") or {}).keys() for item in containers)


def _print(lines: Iterator[str], raw: bool) -> None:
    for line in lines:
        print(line if raw else readable(line), flush=True)


def readable(line: str) -> str:
    """A line of progress in words; any other as it is, and of one that was written over again and again the last."""
    line = line.rstrip("\r").rpartition("\r")[2]
    if not line.startswith("{"):
        return line
    try:
        said = Progress.model_validate_json(line)
    except ValidationError:
        return line
    progress = StageProgress.model_validate(
        {name: getattr(said, name) for name in StageProgress.model_fields if getattr(said, name) is not None}
    )
    return figures(progress) or line
