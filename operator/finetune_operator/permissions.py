"""What the operator may do in a cluster, and why. The chart's RBAC grants this and nothing else; a test compares."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api import GROUP, PLURAL, POLICY_PLURAL


class Where(StrEnum):
    """Where a permission holds."""

    CLUSTER = "cluster"
    """In the whole cluster, because the resource has no namespace."""
    JOBS = "jobs"
    """In the namespaces whose FinetuneJobs it runs: all of them, or those that are listed."""
    OWN = "own"
    """In the operator's own namespace."""


@dataclass(frozen=True)
class Permission:
    """Verbs on one resource (`pods/log` is a subresource of its own).

    `the_lease_only` narrows it to the one object that is named like the operator's Lease.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    where: Where
    why: str
    the_lease_only: bool = False


PERMISSIONS = (
    Permission(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        ("list", "watch"),
        Where.CLUSTER,
        "kopf notices when the CRD appears, changes or goes",
    ),
    Permission(
        "",
        "namespaces",
        ("get", "list", "watch"),
        Where.CLUSTER,
        "policies select namespaces by their labels, and kopf waits for listed ones to exist",
    ),
    Permission(GROUP, POLICY_PLURAL, ("list", "watch"), Where.CLUSTER, "what jobs may do in which namespaces"),
    Permission(GROUP, PLURAL, ("list", "watch"), Where.JOBS, "the jobs to run"),
    Permission(GROUP, f"{PLURAL}/status", ("patch",), Where.JOBS, "the one thing that is written to a job"),
    Permission(
        GROUP,
        f"{PLURAL}/finalizers",
        ("update",),
        Where.JOBS,
        "the API server asks for it where an ownerReference says blockOwnerDeletion; no finalizer is ever set",
    ),
    Permission(
        "batch",
        "jobs",
        ("create", "delete", "get", "list", "watch"),
        Where.JOBS,
        "one Job per attempt of a stage; get tells whose a name is that is taken",
    ),
    Permission("", "pods", ("list", "watch"), Where.JOBS, "why a stage waits, and how it ended"),
    Permission("", "pods/log", ("get",), Where.JOBS, "progress"),
    Permission("", "configmaps", ("create", "get"), Where.JOBS, "frozen plans"),
    Permission("", "events", ("create", "get", "patch"), Where.JOBS, "what `kubectl describe` tells"),
    Permission("coordination.k8s.io", "leases", ("create",), Where.OWN, "create cannot be narrowed to a name"),
    Permission(
        "coordination.k8s.io",
        "leases",
        ("get", "update"),
        Where.OWN,
        "of several replicas, one leads",
        the_lease_only=True,
    ),
)
