"""`python -m finetune_local`: the local cluster in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from finetune_local.children import ChildError
from finetune_local.cluster import BUCKET, STORAGE_SECRET, ClusterSettings, LocalCluster
from finetune_local.node.node import NodeSettings
from finetune_local.parts import stop_signal


async def serve(state: Path, settings: ClusterSettings) -> None:
    """Run the cluster until a signal. Raises ChildError where a part of it fails."""
    stop = stop_signal()
    async with LocalCluster(state, settings) as cluster:
        sys.stdout.write(
            f"export KUBECONFIG={cluster.kubeconfig}\n"
            f"# S3: {cluster.s3.endpoint}, bucket {BUCKET}, keys in Secret default/{STORAGE_SECRET}\n"
        )
        sys.stdout.flush()
        stopping, failing = asyncio.create_task(stop.wait()), asyncio.create_task(cluster.wait())
        done, _ = await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, failing):
            task.cancel()
        if failing in done:
            failing.result()


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m finetune_local", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(".local/cluster"), help="folder for everything it keeps")
    parser.add_argument("--port", type=int, default=0, help="the API server's port; 0: a free one")
    parser.add_argument("--s3-port", type=int, default=0, help="the S3 server's port; 0: a free one")
    parser.add_argument("--forget", action="store_true", help="keep objects in memory only")
    parser.add_argument("--gpus", type=int, default=0, help="how many nvidia.com/gpu the node offers")
    parser.add_argument("--verbose", action="store_true", help="log more")
    return parser


def main() -> int:
    """Run the cluster; the exit code."""
    options = arguments().parse_args()
    level = logging.DEBUG if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = ClusterSettings(
        port=options.port,
        s3_port=options.s3_port,
        persistent=not options.forget,
        node=NodeSettings(extended={"nvidia.com/gpu": options.gpus} if options.gpus else {}),
    )
    try:
        asyncio.run(serve(options.state, settings))
    except ChildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
