"""Which built-in kind follows which rules."""

from __future__ import annotations

from finetune_local.apiserver.strategies import core, jobs, pods
from finetune_local.apiserver.strategies.base import BuiltinStrategy, PlainStrategy, Strategy
from finetune_local.apiserver.strategies.definitions import DefinitionStrategy

_RULES: dict[str, type[Strategy]] = {
    "clusterrolebindings.rbac.authorization.k8s.io": core.BindingStrategy,
    "clusterroles.rbac.authorization.k8s.io": core.RbacStrategy,
    "configmaps": core.DataStrategy,
    "cronjobs.batch": jobs.CronJobStrategy,
    "customresourcedefinitions.apiextensions.k8s.io": DefinitionStrategy,
    "deployments.apps": core.WorkloadStrategy,
    "endpoints": PlainStrategy,
    "events": core.EventStrategy,
    "jobs.batch": jobs.JobStrategy,
    "leases.coordination.k8s.io": core.LeaseStrategy,
    "limitranges": PlainStrategy,
    "namespaces": core.NamespaceStrategy,
    "nodes": PlainStrategy,
    "persistentvolumeclaims": core.ClaimStrategy,
    "pods": pods.PodStrategy,
    "replicasets.apps": core.WorkloadStrategy,
    "rolebindings.rbac.authorization.k8s.io": core.BindingStrategy,
    "roles.rbac.authorization.k8s.io": core.RbacStrategy,
    "secrets": core.SecretStrategy,
    "serviceaccounts": core.ServiceAccountStrategy,
    "services": core.ServiceStrategy,
    "statefulsets.apps": core.WorkloadStrategy,
}


def strategy_for(bucket: str) -> Strategy:
    """The rules of the built-in kind that is stored in this bucket."""
    return _RULES.get(bucket, BuiltinStrategy)()
