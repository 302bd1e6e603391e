"""Spec and pins → the frozen plan: every default written out, every key known.

A plan is made once per generation and kept in an immutable ConfigMap, so that an upgraded operator or a changed
default never re-plans what runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import Field, ValidationError

from finetune_api import keys
from finetune_api.base import Digest, Model
from finetune_api.job import JobSpec
from finetune_api.outline import StageOutline, outline
from finetune_api.passes import ADAPTER_PASSES
from finetune_api.policy import PodOverlay
from finetune_api.quantity import amount
from finetune_api.stage import Pins, Prepared
from finetune_api.system import ModelCache, Resources, System, Toleration, Topology
from finetune_operator.settings import Settings
from finetune_operator.sizing import needs

PLAN_KEY = "plan.json"
GPU = "nvidia.com/gpu"
# Fields that say how a run is conducted, not what it computes: editing them needs no new prepare.
OPERATIONAL = frozenset(
    {
        "suspend",
        "maxAttempts",
        "queueName",
        "managedBy",
        "activeDeadlineSeconds",
        "maxQueueSeconds",
        "ttlSecondsAfterFinished",
    }
)


class PodSettings(Model):
    """What of a pod's template a spec, the namespace's policies or the operator's settings decide."""

    image: str
    resources: Resources = Field(default_factory=Resources)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    priority_class_name: str | None = None
    service_account_name: str | None = None
    runtime_class_name: str | None = None
    workload_priority_class: str | None = None
    topology: Topology | None = None
    nodes: int | None = None
    processes_per_node: int | None = None
    model_cache: ModelCache | None = None
    # None where there is nothing in it: plans and Jobs of operators that knew no overlay stay what they are.
    overlay: PodOverlay | None = None

    @property
    def gpus(self) -> int:
        """GPUs of all the pods of one attempt together."""
        asked = self.resources.limits.get(GPU, self.resources.requests.get(GPU, 0))
        return int(amount(asked)) * (self.nodes or 1)


class PlannedStage(Model):
    """One stage of a plan."""

    name: str
    type: str
    key: Digest
    config: dict[str, Any]
    inputs: dict[str, str]
    base: bool
    # Absent rather than false, so that plans of operators that knew no adapters stay what they are.
    base_adapter: bool | None = None
    data: list[str]
    output: str | None = None
    evaluator: dict[str, Any] | None = None
    pod: PodSettings


class Plan(Model):
    """What a generation of a job does, decided for good."""

    version: int = 1
    generation: int
    source: Digest = Field(description="source_of() the spec as the user wrote it.")
    run_id: str
    spec: dict[str, Any]
    pins: Pins
    reused: dict[str, Digest]
    stages: list[PlannedStage]
    light_pod: PodSettings

    @cached_property
    def job_spec(self) -> JobSpec:
        """The spec that the plan was made from."""
        return JobSpec.model_validate(self.spec)

    def text(self) -> str:
        """The plan as its ConfigMap holds it."""
        return keys.canonical(self.wire()).decode()

    @cached_property
    def digest(self) -> str:
        """The digest of its content. A plan never changes, and is asked for this at every look at its job."""
        return keys.digest(json.loads(self.text()))


def source_of(raw_spec: Mapping[str, Any]) -> str:
    """A digest of what the user asked for, without operational fields and without anybody's defaults.

    A plan holds while this is equal, whatever an upgraded operator would now plan for the same words.
    """
    return keys.digest({name: value for name, value in raw_spec.items() if name not in OPERATIONAL})


def make_plan(
    namespace: str,
    generation: int,
    source: str,
    spec: JobSpec,
    prepared: Prepared,
    settings: Settings,
    overlay: PodOverlay | None = None,
) -> Plan:
    """The plan of a spec, with what prepare pinned and what it found in the store already.

    The spec's systems, and `settings` and `overlay`, are as the namespace's policies have them now.
    """
    pins = prepared.pins
    stage_keys = keys.stage_keys(namespace, spec, pins)
    # Prepare speaks of other keys than ours only where an upgrade came between; then nothing is taken as done.
    reused = dict(prepared.done) if prepared.keys == keys.combined(stage_keys) else {}
    return Plan(
        generation=generation,
        source=source,
        run_id=spec.run_id,
        spec=planned_spec(spec),
        pins=pins,
        reused=reused,
        stages=[
            _planned(stage, stage_keys[stage.name], stage_pod(spec, stage, settings, overlay, pins.model.size))
            for stage in outline(spec)
        ],
        light_pod=light_pod(spec, settings, overlay),
    )


def _planned(stage: StageOutline, key: str, pod: PodSettings) -> PlannedStage:
    return PlannedStage(
        name=stage.name,
        type=stage.type,
        key=key,
        config=stage.config.wire(),
        inputs={str(role): name for role, name in stage.inputs.items()},
        base=stage.base,
        base_adapter=stage.base_adapter or None,
        data=list(stage.data),
        output=stage.output,
        evaluator=stage.evaluator.wire() if stage.evaluator else None,
        pod=pod,
    )


def planned_spec(spec: JobSpec) -> dict[str, Any]:
    """The spec as a plan keeps it: without what may change while it runs."""
    return {name: value for name, value in spec.wire().items() if name not in OPERATIONAL}


def read_plan(text: str) -> Plan | None:
    """The plan that a ConfigMap holds; None where it is none that this operator understands."""
    try:
        return Plan.model_validate_json(text)
    except ValidationError:
        return None


def stage_pod(
    spec: JobSpec, stage: StageOutline, settings: Settings, overlay: PodOverlay | None = None, model_size: int = 0
) -> PodSettings:
    """The pod settings of a stage: its system's, without the GPU where the stage has no use for it.

    Where the system does not say how much memory and disk, a model of `model_size` bytes does.
    """
    system = next((system for system in spec.systems if system.name == stage.system), None)
    resources = _resources(spec, stage, system, settings, model_size)
    if system is None:
        return PodSettings(
            image=settings.trainer_image,
            resources=resources,
            model_cache=_model_cache(stage, None, overlay),
            overlay=overlay,
        )
    # Absent rather than 1, so that what runs in one process keeps its identity from before these fields were there.
    together = stage.type in ADAPTER_PASSES and system.world_size() > 1
    return PodSettings(
        image=system.image or settings.trainer_image,
        resources=resources,
        node_selector=system.node_selector,
        tolerations=system.tolerations,
        priority_class_name=system.priority_class_name,
        service_account_name=system.service_account_name,
        runtime_class_name=system.runtime_class_name,
        workload_priority_class=system.workload_priority_class,
        topology=system.topology,
        nodes=system.nodes if together else None,
        processes_per_node=system.processes() if together else None,
        model_cache=_model_cache(stage, system, overlay),
        overlay=overlay,
    )


def _resources(
    spec: JobSpec, stage: StageOutline, system: System | None, settings: Settings, model_size: int
) -> Resources:
    """What the system names, or the operator's defaults; with what the model's size asks for beyond these."""
    named = system.resources if system else Resources()
    named = named if stage.computes_on_gpu else without_gpu(named)
    needed = needs(stage, model_size, least=settings.default_memory, queued=bool(spec.queue_name))
    if not (named.requests or named.limits):
        return Resources(requests={**_default_resources(settings).requests, **needed})
    silent = {name: size for name, size in needed.items() if name not in named.requests and name not in named.limits}
    return named.model_copy(update={"requests": {**named.requests, **silent}})


def _model_cache(stage: StageOutline, system: System | None, overlay: PodOverlay | None) -> ModelCache | None:
    """The volume that keeps input models, for stages that read one: the system's own, else the platform's."""
    if not stage.base:
        return None
    return (system.model_cache if system else None) or (overlay.model_cache if overlay else None)


def light_pod(spec: JobSpec, settings: Settings, overlay: PodOverlay | None = None) -> PodSettings:
    """The pod settings of prepare, publish and probe: small, on any node, with engine.host's service account."""
    host = next((system for system in spec.systems if system.name == spec.engine.host), None)
    amounts = {"cpu": settings.light_cpu, "memory": settings.light_memory}
    return PodSettings(
        image=settings.image_for_light_stages,
        resources=Resources(requests=amounts, limits={"memory": settings.light_memory}),
        service_account_name=host.service_account_name if host else None,
        overlay=overlay,
    )


def _default_resources(settings: Settings) -> Resources:
    return Resources(requests={"cpu": settings.default_cpu, "memory": settings.default_memory})


def without_gpu(resources: Resources) -> Resources:
    """`resources` without GPUs, so that merging or building keeps no GPU waiting."""
    return Resources(
        requests={name: value for name, value in resources.requests.items() if name != GPU},
        limits={name: value for name, value in resources.limits.items() if name != GPU},
    )


def kept_pins(spec: JobSpec, previous: Plan | None) -> Pins | None:
    """The pins of the previous generation's plan, where nothing that they hold fast was edited."""
    if previous is None:
        return None
    before, now = previous.spec, planned_spec(spec)
    same = all(before.get(name) == now.get(name) for name in ("inputModel", "dataConfigs", "runId"))
    return previous.pins if same else None


def plan_name(job: str, plan: Plan) -> str:
    """The name of the plan's ConfigMap, from its content."""
    return f"{job[:40].rstrip('-.')}-plan-{plan.digest[:12]}"
