"""What several commands do around a local cluster: its folder, how to reach it, staying up."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_cli.session import Finished
from finetune_cli.stack import Stack


@contextmanager
def state_folder(given: Path | None) -> Iterator[Path]:
    """`given`, made where it is missing; else a temporary folder, removed afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="finetune-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def offer(stack: Stack, finished: Finished) -> list[str]:
    """The commands that show a finished job on a cluster that stays up."""
    where = "" if finished.namespace == "default" else f" -n {finished.namespace}"
    lines = ["", "The cluster stays up until Ctrl-C:", f"  export KUBECONFIG={stack.kubeconfig}"]
    if shutil.which("kubectl"):
        lines += [
            f"  kubectl get ftj{where}",
            f"  kubectl describe ftj {finished.name}{where}",
            *(f"  kubectl logs job/{stage.job}{where}" for stage in finished.status.stages[:1] if stage.job),
        ]
    return lines


def by_hand(job_file: Path, name: str) -> list[str]:
    """The commands that do the same by hand, where kubectl is installed."""
    if not shutil.which("kubectl"):
        return []
    return [
        "The same with kubectl: `make local` in one terminal, and in another",
        "  export KUBECONFIG=.local/cluster/kubeconfig",
        f"  kubectl apply -f {job_file}",
        "  kubectl get ftj -w",
        f"  kubectl wait --for=condition=Succeeded ftj/{name} --timeout=5m",
        f"  kubectl describe ftj {name}",
        f"  kubectl logs -l finetune.dev/job={name} --prefix --tail=5",
    ]


async def stay() -> None:
    """Wait until somebody interrupts."""
    await asyncio.Event().wait()
