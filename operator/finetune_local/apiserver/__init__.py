"""A stand-in Kubernetes API server for one machine, on loopback.

Good enough for kubectl, kopf and the `kubernetes` client, and faithful where the product depends on it: validation,
patches, server-side apply, watches, deletion and garbage collection, RBAC. It follows Kubernetes 1.36.

What it is not: no TLS (so kubectl sends no token; `kubectl --as` works), no admission plugins or webhooks
(ValidatingAdmissionPolicies, quotas, disruption budgets and pod security are stored, not enforced), no guard against
RBAC escalation, no conversion webhooks, no `scale`, `exec`, `attach` or `portforward`. Nothing runs Deployments,
StatefulSets, DaemonSets and CronJobs. Events stay until they are deleted. Continued lists are not of one instant.
CEL has no cost budget, and the functions that `cel.functions` lists as missing.
"""

from finetune_local.apiserver.server import ApiServer

__all__ = ["ApiServer"]
