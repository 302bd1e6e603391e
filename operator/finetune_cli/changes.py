"""Changing a job that is in the cluster, and saying so where somebody else keeps it as it was."""

from __future__ import annotations

import argparse
import sys

from finetune_cli.arguments import tell
from finetune_cli.connection import Cluster
from finetune_cli.errors import ExitCode
from finetune_cli.jobfile import Body

# By these Argo CD and Flux know their objects; with self-healing on they put back what is in Git.
GITOPS_MARKS = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "argocd.argoproj.io/instance": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}


def change(arguments: argparse.Namespace, spec: Body, words: str) -> int:
    """Merge `spec` into the job's, and say what that comes to."""
    job = Cluster.connect(arguments).patch(arguments.name, spec)
    done = {"namespace": job["metadata"]["namespace"], "name": arguments.name, "spec": spec}
    tell(done, f"{done['namespace']}/{arguments.name}: {words}", arguments.output)
    keeper = kept_by(job)
    if keeper:
        print(f"note: {keeper} keeps this job and may put it back; change it in Git too", file=sys.stderr)
    return ExitCode.OK


def kept_by(job: Body) -> str | None:
    """Which GitOps tool keeps `job` as it is in Git, by its marks."""
    metadata = job["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    return next((tool for mark, tool in GITOPS_MARKS.items() if mark in marks), None)
