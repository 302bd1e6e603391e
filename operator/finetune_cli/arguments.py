"""Arguments that several commands share, with kubectl's own names, and what the shell completes them with."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_cli.completing import artifacts, contexts, jobs, namespaces
from finetune_cli.yamltext import dump


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """The options by which kubectl is told where to look."""
    group = parser.add_argument_group("cluster")
    namespace = group.add_argument("-n", "--namespace", metavar="NAME", help="default: the context's")
    context = group.add_argument("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
    group.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, else ~/.kube/config")
    completed_by(namespace, namespaces)
    completed_by(context, contexts)


def add_job(parser: argparse.ArgumentParser, *, metavar: str = "JOB", words: str = "the FinetuneJob's name") -> None:
    """The job's name, and the cluster that it is on."""
    completed_by(parser.add_argument("name", metavar=metavar, help=words), jobs)
    add_cluster(parser)


def add_artifacts(parser: argparse.ArgumentParser) -> None:
    """Names of artifacts, none meaning all."""
    what = parser.add_argument("artifacts", nargs="*", metavar="ARTIFACT", help="adapter, model, onnx, …; default: all")
    completed_by(what, artifacts)


def add_folder(parser: argparse.ArgumentParser) -> None:
    """`--dir`, for artifacts."""
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where artifacts go, a folder for each; default ./finetune-output/<job>"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """`-o json|yaml` instead of words for people."""
    parser.add_argument("-o", "--output", choices=("json", "yaml"), help="for programs")


def completed_by(action: argparse.Action, completer: Callable[..., list[str]]) -> None:
    """Have the shell complete `action`'s values by `completer`, which argcomplete looks for there."""
    action.completer = completer  # type: ignore[attr-defined]


def dumped(value: Any, form: str) -> str:
    """`value` as JSON or YAML, with a line's end."""
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return dump(value)


def tell(value: Any, words: str, form: str | None) -> None:
    """Print `value` in the form for programs that was asked for, else `words`."""
    print(dumped(value, form) if form else f"{words}\n", end="", flush=True)
