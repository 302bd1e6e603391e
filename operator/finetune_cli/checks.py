"""What can be said against a FinetuneJob without a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_api import API_VERSION, rules
from finetune_api.problems import Problem, problem
from finetune_cli.jobfile import Body, name_of

MAX_NAME = 63
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KEYS = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})


def problems_of(job: Body) -> list[Problem]:
    """All problems of a FinetuneJob document, its metadata's first."""
    spec = job.get("spec")
    if not isinstance(spec, dict):
        return [*_metadata(job), problem("spec", spec, "a job needs a spec", "See examples/phi3-emotions/job.yaml.")]
    return [*_metadata(job), *rules.check(spec)[1]]


def _metadata(job: Body) -> Iterator[Problem]:
    for key in sorted(job.keys() - _KEYS):
        yield problem(key, None, "unknown field", f"Known here: {', '.join(sorted(_KEYS))}.")
    if job["apiVersion"] != API_VERSION:
        yield problem("apiVersion", job["apiVersion"], "unknown version", f"Write {API_VERSION}.")
    if name_of(job) == "(no name)":
        yield problem("metadata.name", None, "a job needs a name", "Give it one.")
    elif len(name_of(job)) > MAX_NAME:
        yield problem("metadata.name", name_of(job), f"longer than {MAX_NAME} characters", "Shorten it.")
    elif not _NAME.fullmatch(name_of(job)):
        remedy = "Use a-z, 0-9, - and dots, and begin and end with a letter or digit."
        yield problem("metadata.name", name_of(job), "no name of a Kubernetes object", remedy)
