"""`python -m finetune_operator`: run the operator until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import sys

import kopf

from finetune_operator.controller import Controller
from finetune_operator.settings import from_environment


def main() -> int:
    """Run; the exit code is 2 where the environment's settings cannot be read."""
    try:
        settings = from_environment(os.environ)
    except ValueError as error:
        sys.stderr.write(f"finetune-operator: {error}\n")
        return 2
    kopf.configure(debug=False, verbose=False, quiet=False)
    registry = kopf.OperatorRegistry()
    Controller(settings).register(registry)
    port = settings.liveness_port
    asyncio.run(
        kopf.operator(
            registry=registry,
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=list(settings.namespaces),
            liveness_endpoint=f"http://0.0.0.0:{port}/healthz" if port else None,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
