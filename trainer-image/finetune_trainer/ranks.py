"""The processes of a pod that train together with those of other pods, each told its place by its environment.

A pod's number among the stage's pods is the Job's completion index, so rank 0, which publishes, is always in the pod
whose result the operator reads. That is why torch's elastic agent is not used: it gives out ranks as processes come,
it would start failed ones again, which here is the operator's to decide, and it turns every ending into its own exit
code. The variables are those that `torchrun` sets.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

# As in finetune_api, which takes long to import.
_STAGE = "FINETUNE_STAGE"
_RESULT = "FINETUNE_RESULT_PATH"
_SCRATCH = "FINETUNE_SCRATCH"
_NODES = "FINETUNE_NODES"
_PROCESSES = "FINETUNE_PROCESSES_PER_NODE"
_RENDEZVOUS = "FINETUNE_RENDEZVOUS"
_INDEX = "JOB_COMPLETION_INDEX"
_TRAINING = ("LoRA", "QLoRA", "DoRA")
_LOOPBACK = "127.0.0.1"
# A rank ends with this where all ranks are to be started again, and so often they were: `training.retreat`. It never
# leaves the pod.
AGAIN = 80
TRIES_ENV = "FINETUNE_TRIES"


def of_this_pod(variables: Mapping[str, str]) -> list[dict[str, str]]:
    """The environment of each process that this pod runs: one, unless `variables` ask for more of a training stage.

    Raises KeyError where there are several nodes and no FINETUNE_RENDEZVOUS, the host:port of rank 0.
    """
    nodes, processes = (int(variables.get(name) or 1) for name in (_NODES, _PROCESSES))
    if nodes * processes == 1 or said_by(variables.get(_STAGE, "")).get("type") not in _TRAINING:
        return [dict(variables)]
    index = int(variables.get(_INDEX) or 0)
    host, _, port = variables[_RENDEZVOUS].rpartition(":") if nodes > 1 else (_LOOPBACK, ":", str(_free_port()))
    return [
        {
            **variables,
            **_own_files(variables, local),
            **_threads(variables, processes),
            **({"GLOO_SOCKET_IFNAME": "lo"} if host == _LOOPBACK else {}),
            "RANK": str(index * processes + local),
            "WORLD_SIZE": str(nodes * processes),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
        }
        for local in range(processes)
    ]


def said_by(text: str | bytes) -> dict[str, Any]:
    """The JSON object in `text`; empty where it is none."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _own_files(variables: Mapping[str, str], local: int) -> dict[str, str]:
    """Where a process writes its result: the pod's first one into the termination message itself."""
    if local == 0:
        return {}
    return {_RESULT: os.path.join(variables[_SCRATCH], f"result-{local}.json")}  # noqa: PTH118  (pathlib is slow)


def _threads(variables: Mapping[str, str], processes: int) -> dict[str, str]:
    """A pod's processes share its CPUs."""
    threads = variables.get("OMP_NUM_THREADS", "")
    return {"OMP_NUM_THREADS": str(max(1, int(threads) // processes))} if threads.isdecimal() else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port
