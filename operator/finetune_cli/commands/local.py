"""`finetune local`: the local cluster with the operator on it, in the foreground, for kubectl."""

from __future__ import annotations

import argparse
import asyncio
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from finetune_cli import loop
from finetune_cli.example import Example
from finetune_cli.localise import PLACEHOLDER_ENDPOINT
from finetune_cli.stack import API_PORT, Stack, local_stack
from finetune_cli.staying import state_folder, stay

DEFAULT_STATE = Path(".local/cluster")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--state", type=Path, default=DEFAULT_STATE, metavar="DIR", help=f"the cluster's folder ({DEFAULT_STATE})"
    )
    parser.add_argument("--api-port", type=int, default=API_PORT, metavar="PORT", help=f"API server ({API_PORT})")
    parser.add_argument(
        "--s3-port",
        type=int,
        default=urlsplit(PLACEHOLDER_ENDPOINT).port,
        metavar="PORT",
        help="object storage (%(default)s, which the example's job names)",
    )
    parser.add_argument("--no-example", action="store_true", help="do not make and upload the example's inputs")
    parser.add_argument("--no-operator", action="store_true", help="the cluster alone, without the operator")


def execute(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C, which is the way it is meant to end."""
    return loop.run(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> int:
    with state_folder(arguments.state) as state:
        settings = {"api_port": arguments.api_port, "s3_port": arguments.s3_port, "operator": not arguments.no_operator}
        async with local_stack(state, persistent=True, **settings) as stack:
            if not arguments.no_example:
                await _offer_example(stack, state)
            print("\n".join(_words(stack)), flush=True)
            await stack.while_up(stay())
    return 0


async def _offer_example(stack: Stack, state: Path) -> None:
    example = Example.find()
    folder = state / "example"
    if not folder.exists():
        print("Making the example's data and base model, once …", flush=True)
        partial = state / "example.partial"
        shutil.rmtree(partial, ignore_errors=True)
        await asyncio.to_thread(example.make, partial)
        partial.rename(folder)
    for upload in example.uploads(folder):
        await asyncio.to_thread(stack.bucket.upload, upload.source, upload.uri)


def _words(stack: Stack) -> list[str]:
    lines = [
        "The local cluster is up, until Ctrl-C.",
        f"  object storage  {stack.storage.endpoint}, {stack.storage.uri}, Secret {stack.storage.secret}",
        "",
        f"export KUBECONFIG={stack.kubeconfig}",
    ]
    if shutil.which("kubectl"):
        lines += ["kubectl apply -f examples/phi3-emotions/job.yaml", "kubectl get ftj -w"]
    return lines
