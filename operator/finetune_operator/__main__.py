"""`python -m finetune_operator`: run the operator until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys

import kopf

from finetune_operator import logs
from finetune_operator.controller import Controller
from finetune_operator.kube import in_reach
from finetune_operator.settings import Settings, from_environment


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit code is 2 where the environment names no cluster or holds settings that cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m finetune_operator", description=__doc__)
    parser.add_argument("--log-format", choices=logs.FORMATS, help="wins over FINETUNE_LOG_FORMAT (default: text)")
    given = parser.parse_args(arguments)
    try:
        settings = from_environment(os.environ)
    except ValueError as error:
        sys.stderr.write(f"finetune-operator: {error}\n")
        return 2
    if not in_reach():
        sys.stderr.write("finetune-operator: no cluster: set KUBECONFIG, or run it as a pod with a service account\n")
        return 2
    logs.configure(given.log_format or settings.log_format)
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    """Run until a signal, or until another replica leads; that is exit code 1, so that the pod is started anew."""
    registry = kopf.OperatorRegistry()
    end = asyncio.Event()
    controller = Controller(settings, end)
    controller.register(registry)
    await kopf.operator(
        registry=registry,
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=list(settings.namespaces),
        stop_flag=end,
        # Unless it is told, kopf asks the system for the user's name: in an image, and where a cluster chooses the
        # user, there is none, and the operator would not start.
        identity=os.environ.get("POD_NAME") or socket.gethostname(),  # type: ignore[arg-type]  # kopf's own kind of str
    )
    return 1 if controller.lost_leadership else 0


if __name__ == "__main__":
    sys.exit(main())
