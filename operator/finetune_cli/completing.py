"""What a shell's completion offers for a job, a stage, an artifact, a namespace or a context: what the cluster has.

Nothing here complains: where the cluster does not answer at once, nothing is offered.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import wraps

# A shell waits for these, and so does whoever pressed the key.
SECONDS = 2.0

Completer = Callable[..., list[str]]


def _quietly(completer: Completer) -> Completer:
    @wraps(completer)
    def quiet(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        try:
            return [word for word in completer(parsed_args) if word.startswith(prefix)]
        except Exception:
            return []

    return quiet


@_quietly
def jobs(arguments: argparse.Namespace) -> list[str]:
    """Names of the namespace's FinetuneJobs."""
    return _cluster(arguments).names(SECONDS)


@_quietly
def published_jobs(arguments: argparse.Namespace) -> list[str]:
    """The same, as `verify` names them."""
    return [f"ftj/{name}" for name in _cluster(arguments).names(SECONDS)]


@_quietly
def stages(arguments: argparse.Namespace) -> list[str]:
    """Names of the job's stages."""
    return [item["name"] for item in _status(arguments).get("stages", [])]


@_quietly
def artifacts(arguments: argparse.Namespace) -> list[str]:
    """Names of what the job has published."""
    return [item["name"] for item in _status(arguments).get("artifacts", [])]


@_quietly
def namespaces(arguments: argparse.Namespace) -> list[str]:
    """Names of the cluster's namespaces, for those who may list them."""
    return _cluster(arguments).namespaces(SECONDS)


@_quietly
def contexts(arguments: argparse.Namespace) -> list[str]:
    """Names of the kubeconfig's contexts."""
    from kubernetes import config  # noqa: PLC0415  (half a second, which only this completion needs)

    found, _ = config.list_kube_config_contexts(arguments.kubeconfig)
    return [item["name"] for item in found]


def _cluster(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    from finetune_cli.connection import Cluster  # noqa: PLC0415  (the same)

    return Cluster.connect(arguments)


def _status(arguments: argparse.Namespace) -> dict[str, list[dict[str, str]]]:
    return _cluster(arguments).job(arguments.name, SECONDS).get("status") or {}
