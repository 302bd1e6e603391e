"""Several processes that train together, forked from the test's own, so that none imports torch again."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_trainer.training.distributed import join, leave
from finetune_trainer.training.world import World

_CONTEXT = multiprocessing.get_context("fork")
_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(part: Callable[[World], Any], folder: Path, size: int = 2) -> list[Any]:
    """What `part` returns on each of `size` ranks. Raises AssertionError with the stack of a rank that failed."""
    lines, processes = _started(part, folder, size)
    try:
        found = [line.recv() if line.poll(_SECONDS) else AssertionError("no answer") for line in lines]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    for item in found:
        if isinstance(item, AssertionError):
            raise item
    return found


def endings(part: Callable[[World], Any], folder: Path, size: int = 2) -> list[int | None]:
    """The exit codes of `size` ranks that do `part`; None for one that had to be killed."""
    _, processes = _started(part, folder, size)
    for process in processes:
        process.join(_SECONDS)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def _started(part: Callable[[World], Any], folder: Path, size: int) -> tuple[list[Any], list[Any]]:
    """What each rank will send, and its process."""
    port = str(free_port())
    lines = [_CONTEXT.Pipe(duplex=False) for _ in range(size)]
    processes = []
    for rank, (_, answer) in enumerate(lines):
        variables = {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "MASTER_PORT": port,
            "GLOO_SOCKET_IFNAME": "lo",
            "FINETUNE_SCRATCH": str(folder),
        }
        process = _CONTEXT.Process(target=_rank, args=(part, variables, answer))
        process.start()
        processes.append(process)
    return [line for line, _ in lines], processes


def _rank(part: Callable[[World], Any], variables: dict[str, str], answer: Any) -> None:
    os.environ.update(variables)
    try:
        result = part(join(variables))
        leave()
    except BaseException:
        result = AssertionError(traceback.format_exc())
    answer.send(result)
    answer.close()
    os._exit(0)
