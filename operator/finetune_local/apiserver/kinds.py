"""The built-in kinds, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A built-in kind. `model` is the class of the `kubernetes` client that its schema is made from.

    `api` is group and version, `v1` for the core group. `answers` marks kinds that are only created, to get
    an answer, and never stored.
    """

    api: str
    kind: str
    plural: str
    model: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    subresources: tuple[str, ...] = ()
    answers: bool = False
    storage: str = ""


_ALL = ("all",)

KINDS = (
    Kind("v1", "Namespace", "namespaces", "V1Namespace", False, ("ns",), (), True, ("finalize",)),
    Kind(
        "v1", "Pod", "pods", "V1Pod", True, ("po",), _ALL, True,
        ("log", "binding", "eviction", "ephemeralcontainers"),
    ),
    Kind("v1", "ConfigMap", "configmaps", "V1ConfigMap", True, ("cm",)),
    Kind("v1", "Secret", "secrets", "V1Secret"),
    Kind("v1", "Service", "services", "V1Service", True, ("svc",), _ALL, True),
    Kind("v1", "ServiceAccount", "serviceaccounts", "V1ServiceAccount", True, ("sa",), (), False, ("token",)),
    Kind("v1", "Event", "events", "CoreV1Event", True, ("ev",)),
    Kind("v1", "Node", "nodes", "V1Node", False, ("no",), (), True),
    Kind("v1", "Endpoints", "endpoints", "V1Endpoints", True, ("ep",)),
    Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", "V1PersistentVolumeClaim", True, ("pvc",), (), True),
    Kind("v1", "PersistentVolume", "persistentvolumes", "V1PersistentVolume", False, ("pv",), (), True),
    Kind("v1", "ResourceQuota", "resourcequotas", "V1ResourceQuota", True, ("quota",), (), True),
    Kind("v1", "LimitRange", "limitranges", "V1LimitRange", True, ("limits",)),
    Kind(
        "v1", "ReplicationController", "replicationcontrollers", "V1ReplicationController",
        True, ("rc",), _ALL, True,
    ),
    Kind("apps/v1", "Deployment", "deployments", "V1Deployment", True, ("deploy",), _ALL, True),
    Kind("apps/v1", "ReplicaSet", "replicasets", "V1ReplicaSet", True, ("rs",), _ALL, True),
    Kind("apps/v1", "StatefulSet", "statefulsets", "V1StatefulSet", True, ("sts",), _ALL, True),
    Kind("apps/v1", "DaemonSet", "daemonsets", "V1DaemonSet", True, ("ds",), _ALL, True),
    Kind("batch/v1", "Job", "jobs", "V1Job", True, (), _ALL, True),
    Kind("batch/v1", "CronJob", "cronjobs", "V1CronJob", True, ("cj",), _ALL, True),
    Kind("coordination.k8s.io/v1", "Lease", "leases", "V1Lease"),
    Kind(
        "events.k8s.io/v1", "Event", "events", "EventsV1Event", True, ("ev",), storage="events",
    ),
    Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", "V1EndpointSlice"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", "V1NetworkPolicy", True, ("netpol",)),
    Kind(
        "policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", "V1PodDisruptionBudget",
        True, ("pdb",), (), True,
    ),
    Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "V1PriorityClass", False, ("pc",)),
    Kind("storage.k8s.io/v1", "StorageClass", "storageclasses", "V1StorageClass", False, ("sc",)),
    Kind("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", "V1RuntimeClass", False),
    Kind("rbac.authorization.k8s.io/v1", "Role", "roles", "V1Role"),
    Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", "V1RoleBinding"),
    Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", "V1ClusterRole", False),
    Kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", "V1ClusterRoleBinding", False),
    Kind(
        "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies",
        "V1ValidatingAdmissionPolicy", False, (), ("api-extensions",), True,
    ),
    Kind(
        "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings", "V1ValidatingAdmissionPolicyBinding", False, (), ("api-extensions",),
    ),
    Kind(
        "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions",
        "V1CustomResourceDefinition", False, ("crd", "crds"), ("api-extensions",), True,
    ),
    Kind(
        "authentication.k8s.io/v1", "TokenReview", "tokenreviews", "V1TokenReview", False, answers=True,
    ),
    Kind(
        "authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews", "V1SelfSubjectReview",
        False, answers=True,
    ),
    *(
        Kind("authorization.k8s.io/v1", kind, f"{kind.lower()}s", f"V1{kind}", namespaced, answers=True)
        for kind, namespaced in (
            ("SelfSubjectAccessReview", False),
            ("SelfSubjectRulesReview", False),
            ("SubjectAccessReview", False),
            ("LocalSubjectAccessReview", True),
        )
    ),
)  # fmt: skip

EXTRA_MODELS = ("V1ObjectMeta", "V1Eviction", "AuthenticationV1TokenRequest", "V1Binding", "V1DeleteOptions")
"""Models that are no kinds of their own: metadata, and bodies of requests."""
