"""`spec.systems[]`: where a stage runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api import quantity
from finetune_api.base import LabelName, Model, Name, ObjectName
from finetune_api.quantity import QuantityValue

GPU = "nvidia.com/gpu"
ResourceList = Annotated[dict[Annotated[str, StringConstraints(max_length=63)], QuantityValue], Field(max_length=16)]
LabelMap = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=317)],
        Annotated[str, StringConstraints(max_length=63)],
    ],
    Field(max_length=32),
]


class Resources(Model):
    """Compute resources of each pod, as in a container."""

    requests: ResourceList = Field(default_factory=dict, description="What a pod is guaranteed, e.g. cpu, memory.")
    limits: ResourceList = Field(
        default_factory=dict, description="What a pod may use at most, e.g. cpu, memory, nvidia.com/gpu."
    )


class Toleration(Model):
    """A taint that the pods tolerate, as in a pod."""

    key: Annotated[str, StringConstraints(max_length=317)] | None = Field(None, description="The taint's key.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="How key and value are compared.")
    value: Annotated[str, StringConstraints(max_length=63)] | None = Field(None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect. Default: all."
    )
    toleration_seconds: Annotated[int, Field(ge=0)] | None = Field(
        None, description="For NoExecute: seconds until eviction. Default: never."
    )


TopologyKey = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$",
    ),
]


class Topology(Model):
    """Where Kueue puts the pods of one stage: within one domain of a topology, such as a rack."""

    required: TopologyKey | None = Field(
        None,
        description="The node label that all pods must have in common, such as cloud.provider.com/topology-rack; "
        "Kueue's podset-required-topology. Default: none.",
    )
    preferred: TopologyKey | None = Field(
        None,
        description="The node label that all pods should have in common; Kueue's podset-preferred-topology. "
        "Default: none.",
    )


class ModelCache(Model):
    """Where pods keep input models of hub and store between stages and jobs: a volume of the job's own namespace.

    With a StorageClass of local disks it is the node's; with one that many nodes may write, all of them share it.
    """

    claim_name: ObjectName = Field(
        description="A PersistentVolumeClaim of the job's namespace, mounted into stages that read the input model."
    )
    max_size: QuantityValue = Field(
        "100Gi",
        description="How much it may hold, e.g. 200Gi; the models not used for longest go first, never one in use.",
    )

    def limit(self) -> int:
        """maxSize in bytes."""
        return int(quantity.amount(self.max_size))


class SystemTemplate(Model):
    """All that can be said of a place where stages run: by a job, or by the platform in a FinetunePolicy."""

    name: Name = Field(description="The name by which passes and engine refer to it.")
    type: Literal["Kubernetes", "LocalSystem"] = Field(
        "Kubernetes", description="Kubernetes: a pod. LocalSystem, Olive's word, means the same here."
    )
    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="The trainer image. Default: the operator's own."
    )
    resources: Resources = Field(default_factory=Resources, description="Compute resources of each pod.")
    node_selector: LabelMap = Field(default_factory=dict, description="Labels that the node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(
        default_factory=list, description="Taints that the pods tolerate."
    )
    priority_class_name: ObjectName | None = Field(None, description="Priority class of the pods.")
    service_account_name: ObjectName | None = Field(
        None, description="Service account of the pods; its token is not mounted. Default: default."
    )
    runtime_class_name: ObjectName | None = Field(None, description="Runtime class of the pods.")
    workload_priority_class: LabelName | None = Field(
        None, description="Kueue's WorkloadPriorityClass of the stages, where the job names a queue. Default: none."
    )
    model_cache: ModelCache | None = Field(
        None, description="A volume that keeps input models. Default: the platform's (pods.modelCache), else none."
    )
    topology: Topology | None = Field(
        None, description="Where Kueue puts the pods of a stage, where the job names a queue. Default: anywhere."
    )
    nodes: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Pods that train together, each on a node of its own where each takes a whole node's GPUs. For "
        "training passes; the other stages run in one pod.",
    )
    processes_per_node: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Training processes in each pod. Default: one for each GPU that a pod asks for, else one."
    )

    def processes(self) -> int:
        """How many training processes each pod starts."""
        return self.processes_per_node or max(1, self.gpus())

    def world_size(self) -> int:
        """How many processes train together."""
        return self.nodes * self.processes()

    def gpus(self) -> int:
        """How many NVIDIA GPUs a pod asks for."""
        resources = self.resources
        return int(quantity.amount(resources.limits.get(GPU, resources.requests.get(GPU, 0))))


class System(SystemTemplate):
    """A named place where stages run. Olive: `systems`."""

    system_ref: Name | None = Field(
        None,
        description="The system of this name in the platform's FinetunePolicy; it says everything, so nothing but "
        "name may stand beside it. Default: none, the fields here say it.",
    )
