"""A local cluster whose pods run in an image's root file system, and whose operator does, if an image is given for it.

    python tests/images/cluster.py --state DIR --trainer IMAGE [--operator IMAGE] [--user UID:GID]

It prints the KUBECONFIG to use. The end-to-end tests take it for a cluster like any other:

    KUBECONFIG=… FINETUNE_E2E_CLUSTER=1 FINETUNE_TRAINER_IMAGE=finetune-trainer-cpu:e2e pytest tests/e2e
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path

from finetune_api.crd import crd
from finetune_api.policy_crd import policy_crd
from finetune_cli.apply import CRDS, apply
from finetune_cli.stack import OPERATOR_SETTINGS
from finetune_local.children import Command
from finetune_local.cluster import ClusterSettings, LocalCluster
from finetune_local.node.images import DEFAULT_IMAGES, Image
from finetune_local.node.node import NodeSettings
from finetune_local.parts import stop_signal

IN_ROOT = str(Path(__file__).with_name("in_root.py"))
TRAINER = "finetune-trainer-cpu:e2e"


def operator(image: Path, kubeconfig: Path) -> Command:
    """The operator of an image; as in a pod, its file system is not this machine's."""
    words = [sys.executable, IN_ROOT, "--bind", f"{kubeconfig}:/var/run/kubeconfig", str(image)]
    settings = {**OPERATOR_SETTINGS, "FINETUNE_TRAINER_IMAGE": TRAINER, "KUBECONFIG": "/var/run/kubeconfig"}
    return Command("operator", words, settings)


async def serve(state: Path, trainer: Path, operator_image: Path | None, user: str | None) -> None:
    """Run the cluster until a signal. `user`: whom pods run as, instead of their image's own."""
    options = ("--user", user) if user else ()
    image = Image(entrypoint=("python", IN_ROOT, *options, str(trainer)))
    settings = ClusterSettings(node=NodeSettings(images={**DEFAULT_IMAGES, TRAINER: image}))
    stop = stop_signal()
    async with LocalCluster(state, settings) as cluster:
        for definition in (crd(), policy_crd()):
            await apply(cluster.client, definition, CRDS)
        sys.stdout.write(f"export KUBECONFIG={cluster.kubeconfig}\n")
        sys.stdout.flush()
        process = None
        if operator_image:
            command = operator(operator_image, cluster.kubeconfig)
            process = await asyncio.create_subprocess_exec(*command.words, env=command.environment)
        await stop.wait()
        if process:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            sys.stdout.write(f"the operator ended with {await process.wait()}\n")


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--trainer", type=Path, required=True, help="an image's folder, made by build.sh")
    parser.add_argument("--operator", type=Path, help="the same, of the operator's image")
    parser.add_argument("--user", metavar="UID:GID", help="whom pods run as, as in a cluster that chooses users")
    given = parser.parse_args()
    operator_image = given.operator and given.operator.absolute()
    asyncio.run(serve(given.state, given.trainer.absolute(), operator_image, given.user))


if __name__ == "__main__":
    main()
