"""A FinetuneJob as the operator reads it: any object that the API server may hold, however odd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from finetune_api import rules
from finetune_api.job import JobSpec
from finetune_api.problems import Problem, problem
from finetune_api.status import Status
from finetune_operator.manifests import Owner
from finetune_operator.settings import Settings

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True)
class JobView:
    """Identity, wish and record of one FinetuneJob."""

    owner: Owner
    raw_spec: Mapping[str, Any]
    annotations: Mapping[str, str]
    deleting: bool
    status: Status
    resource_version: str
    raw_status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def managed_elsewhere(self) -> bool:
        """Whether another controller has this job."""
        return bool(self.raw_spec.get("managedBy"))


def read_job(body: Mapping[str, Any]) -> JobView:
    """`body` as a view; a status that nobody of ours can have written counts as none."""
    meta = body["metadata"]
    raw_status = body.get("status") or {}
    return JobView(
        owner=Owner(meta["namespace"], meta["name"], meta["uid"], int(meta.get("generation", 1))),
        raw_spec=body.get("spec") or {},
        annotations=meta.get("annotations") or {},
        deleting="deletionTimestamp" in meta,
        status=_read_status(raw_status),
        resource_version=str(meta.get("resourceVersion", "")),
        raw_status=raw_status,
    )


def _read_status(raw: Mapping[str, Any]) -> Status:
    try:
        return Status.model_validate(raw)
    except ValidationError:
        return Status()


def admissible(view: JobView, settings: Settings) -> tuple[JobSpec | None, list[Problem]]:
    """The job's spec, and all that speaks against running it."""
    spec, problems = rules.check(view.raw_spec)
    problems += [found for found in _pruned(view) if found not in problems]
    namespace = view.owner.namespace
    if namespace.startswith("kube-") or (settings.namespace and namespace == settings.namespace):
        problems.append(
            problem("metadata.namespace", namespace, "no job runs in this namespace", "Use a namespace of your own.")
        )
    return spec, problems


def _pruned(view: JobView) -> list[Problem]:
    """Unknown fields that the API server dropped silently, seen in what kubectl says was applied."""
    try:
        applied = json.loads(view.annotations.get(LAST_APPLIED, "{}"))
    except (ValueError, RecursionError):
        return []
    wanted = applied.get("spec") if isinstance(applied, dict) else None
    if not isinstance(wanted, dict):
        return []
    _, problems = rules.check(wanted)
    return [found for found in problems if found.message == "unknown field"]
