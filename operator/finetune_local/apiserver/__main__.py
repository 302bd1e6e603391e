"""`python -m finetune_local.apiserver`: the API server as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
from pathlib import Path

from finetune_local.apiserver import ApiServer


def main() -> None:
    """Serve until SIGINT or SIGTERM. The kubeconfig is written (as JSON, which is YAML) once the server answers."""
    parser = argparse.ArgumentParser(prog="python -m finetune_local.apiserver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, or the one of --data-dir's last start")
    parser.add_argument("--logs-dir", type=Path, required=True, help="where the node writes the pods' logs")
    parser.add_argument("--data-dir", type=Path, help="where objects are kept; in memory only without it")
    parser.add_argument("--kubeconfig", type=Path, help="the file to write for clients")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    asyncio.run(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = ApiServer(arguments.host, arguments.port, logs_dir=arguments.logs_dir, data_dir=arguments.data_dir)
    async with server:
        if arguments.kubeconfig:
            arguments.kubeconfig.write_text(json.dumps(server.kubeconfig()))
        logging.getLogger(__name__).info("serving at %s", server.url)
        await stopped.wait()


if __name__ == "__main__":
    main()
