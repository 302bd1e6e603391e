"""FinetunePolicy: what the platform team allows the jobs of a set of namespaces, and what it adds to their pods."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import LabelName, ListMap, Model, ObjectName, SecretKey
from finetune_api.system import ModelCache, SystemTemplate

LabelKey = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$")]
# The name of an object, or one with `*` for any characters.
NamePattern = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-.*a-z0-9]+$")]
# A registry or a repository, without tag and digest.
Repository = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=255, pattern=r"^[A-Za-z0-9][-.A-Za-z0-9]*(:[0-9]{1,5})?(/[a-z0-9][-._a-z0-9]*)*$"
    ),
]
# A host name, `*.` and a domain, or an address; with a port where that one alone is meant.
Host = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=253,
        pattern=r"^((\*\.)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$",
    ),
]
TaintKey = Annotated[str, StringConstraints(min_length=1, max_length=317, pattern=r"^(\*|[-._/A-Za-z0-9]+)$")]
EnvName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ResourceName = Annotated[
    str,
    StringConstraints(
        min_length=3, max_length=127, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9][-._A-Za-z0-9]*$"
    ),
]
Names = Annotated[list[NamePattern], Field(max_length=64)]


class LabelSelectorRequirement(Model):
    """One requirement of a label selector."""

    key: LabelKey = Field(description="The label's key.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label is compared; NotIn is also true of what lacks it, as everywhere in Kubernetes."
    )
    values: Annotated[list[LabelValue], Field(max_length=32)] = Field(
        default_factory=list, description="For In and NotIn: the values."
    )


class LabelSelector(Model):
    """Which labels an object must have, as in Kubernetes: all of matchLabels and of matchExpressions."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(
        default_factory=dict, description="Labels with their values."
    )
    match_expressions: Annotated[list[LabelSelectorRequirement], Field(max_length=16)] = Field(
        default_factory=list, description="Requirements on labels."
    )


class Allowed(Model):
    """What jobs may name. A list that is not given allows everything, an empty one nothing."""

    images: Annotated[list[Repository], Field(max_length=64)] | None = Field(
        None,
        description="Image repositories: `ghcr.io/team` allows that repository and all below it, with any tag or "
        "digest; `ghcr.io` the whole registry; `trainer` is docker.io/library/trainer. Default: all.",
    )
    service_accounts: Names | None = Field(
        None,
        description="Service accounts, with * for any characters; none named, `default`, always is. Default: all.",
    )
    priority_classes: Names | None = Field(None, description="Priority classes, with * for any. Default: all.")
    runtime_classes: Names | None = Field(None, description="Runtime classes, with * for any. Default: all.")
    node_selector_keys: Annotated[list[LabelKey], Field(max_length=64)] | None = Field(
        None, description="Labels of nodes that nodeSelector may name. Default: all."
    )
    toleration_keys: Annotated[list[TaintKey], Field(max_length=64)] | None = Field(
        None,
        description="Taints that may be tolerated; `*` is a toleration without a key, of all. Default: all.",
    )
    pvcs: Names | None = Field(
        None, description="PersistentVolumeClaims that pvc:// may name, with * for any characters. Default: all."
    )
    secrets: Names | None = Field(
        None, description="Secrets that may be referred to, with * for any characters. Default: all."
    )
    storage_hosts: Annotated[list[Host], Field(max_length=64)] | None = Field(
        None,
        description="Hosts of storage.endpoint: `minio.minio.svc`, `*.example.com` (any below it), with a port where "
        "only that one is meant; without an endpoint the host is s3.REGION.amazonaws.com. Loopback, link-local and "
        "metadata addresses are refused unless one is here, letter by letter. Default: all others.",
    )
    hub_hosts: Annotated[list[Host], Field(max_length=64)] | None = Field(
        None,
        description="Hosts of model hubs that hub ids may be read from: HF_ENDPOINT of pods.env, else "
        "huggingface.co; [] leaves s3:// and pvc://. Default: all.",
    )


class Limits(Model):
    """What a stage, and a namespace's jobs together, may take at most."""

    max_gpus: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        None,
        description="Devices of all pods of a stage together; every extended resource counts (nvidia.com/gpu, "
        "nvidia.com/mig-1g.10gb, …). Default: no limit.",
    )
    max_nodes: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Pods that a stage is spread over (systems[].nodes). Default: no limit."
    )
    max_running_jobs: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None,
        description="Jobs of each namespace that run at the same time; the others are Queued, and the oldest goes "
        "next. Default: no limit.",
    )


class PolicyDefaults(Model):
    """What holds for a job that does not say otherwise."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="The trainer image of systems without one. Default: the operator's."
    )
    light_image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="The image of prepare, publish and probe. Default: the operator's."
    )
    queue_name: LabelName | None = Field(None, description="The Kueue LocalQueue. Default: none.")
    max_attempts: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="maxAttempts of jobs that do not say it. Default: the job's own default."
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="activeDeadlineSeconds of jobs that do not say it. Default: no limit."
    )
    max_queue_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="maxQueueSeconds of jobs that do not say it. Default: no limit."
    )


class EnvVar(Model):
    """A variable of the trainer's environment."""

    name: EnvName = Field(description="Its name; FINETUNE_ is the operator's own prefix.")
    value: Annotated[str, StringConstraints(max_length=4096)] = Field("", description="Its value.")


class PullSecret(Model):
    """A Secret in each job's own namespace with a registry's credentials."""

    name: ObjectName = Field(description="The Secret's name.")


class CaBundle(Model):
    """A ConfigMap in each job's own namespace with the certificates to trust."""

    name: ObjectName = Field(description="The ConfigMap's name.")
    key: SecretKey = Field("ca.crt", description="Its key: PEM, with the public roots where those are to be trusted.")


class PodOverlay(Model):
    """What the platform puts into every stage's pod."""

    image_pull_secrets: Annotated[list[PullSecret], ListMap(), Field(max_length=16)] = Field(
        default_factory=list, description="Pull secrets of the jobs' namespaces."
    )
    env: Annotated[list[EnvVar], ListMap(), Field(max_length=32)] = Field(
        default_factory=list,
        description="Variables such as HTTPS_PROXY, NO_PROXY and HF_ENDPOINT. The operator's own win.",
    )
    ca_bundle: CaBundle | None = Field(
        None, description="Certificates that storage and hub are checked against. Default: the image's own."
    )
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(
        default_factory=dict, description="Labels of the pods. The operator's own win."
    )
    annotations: Annotated[dict[LabelKey, Annotated[str, StringConstraints(max_length=4096)]], Field(max_length=32)] = (
        Field(default_factory=dict, description="Annotations of the pods. The operator's own win.")
    )
    model_cache: ModelCache | None = Field(
        None,
        description="A volume that keeps input models: a PersistentVolumeClaim of this name in each job's own "
        "namespace, so that no tenant reads another's. Default: none.",
    )
    gpu_resource_name: ResourceName | None = Field(
        None,
        description="What the cluster calls the GPUs that jobs ask for as nvidia.com/gpu, e.g. nvidia.com/gpu.shared. "
        "Default: nvidia.com/gpu.",
    )


class PolicySpec(Model):
    """What a FinetunePolicy says. Of several that select a namespace, each must allow what a job asks for."""

    namespace_selector: LabelSelector = Field(
        default_factory=LabelSelector,
        description="By their labels, the namespaces whose jobs it holds for; an empty one selects all.",
    )
    allow: Allowed = Field(default_factory=Allowed, description="What jobs may name.")
    limits: Limits = Field(
        default_factory=Limits, description="What a stage, and a namespace's jobs together, may take at most."
    )
    allow_remote_code: bool = Field(
        False,
        description="Let jobs run Python code that comes with a model (trustRemoteCode). All policies of a namespace "
        "must allow it, and there must be one.",
    )
    defaults: PolicyDefaults = Field(
        default_factory=PolicyDefaults,
        description="What holds for a job that does not say otherwise; of several policies the first by name that says "
        "it counts.",
    )
    systems: Annotated[list[SystemTemplate], ListMap(), Field(max_length=16)] = Field(
        default_factory=list,
        description="Systems that jobs may take by systemRef; the lists of allow do not hold for them, the limits do. "
        "Of several with one name, that of the first policy by name counts.",
    )
    pods: PodOverlay = Field(
        default_factory=PodOverlay,
        description="What every stage's pod gets; of several policies all, the first by name where they disagree.",
    )
