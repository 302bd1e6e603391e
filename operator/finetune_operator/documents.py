"""A plan → the stage documents that pods are handed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api import keys
from finetune_api.engine import Engine, LogSeverity
from finetune_api.job import JobSpec
from finetune_api.model import InputModel
from finetune_api.outline import PREPARE, PUBLISH, outline
from finetune_api.stage import Artifact, JobRef, Pins, StageDocument, StageInput
from finetune_api.status import StageStatus
from finetune_operator.manifests import Work
from finetune_operator.owner import Owner
from finetune_operator.plan import Plan, PlannedStage, PodSettings

# A published artifact's name, by the role that a stage's output has.
ARTIFACT_ROLES = ("adapter", "model", "onnx")


def job_ref(owner: Owner, generation: int, run_id: str) -> JobRef:
    """Which job a stage belongs to."""
    return JobRef(namespace=owner.namespace, name=owner.name, uid=owner.uid, generation=generation, run_id=run_id)


def prepare_work(owner: Owner, spec: JobSpec, source: str, pins: Pins | None, pod: PodSettings) -> Work:
    """Prepare's work: another one for each spec, namespace and set of kept pins."""
    content: dict[str, Any] = {"namespace": owner.namespace, "source": source}
    if pins:
        content["pins"] = pins.wire()
    return Work(PREPARE, "Prepare", keys.digest(content), pod, spec.run_id)


def prepare_document(owner: Owner, spec: JobSpec, work: Work, pins: Pins | None, attempt: str) -> StageDocument:
    """What prepare is told: the whole spec, and the pins that it must keep, if any."""
    used = {name for stage in outline(spec) for name in stage.data}
    return StageDocument(
        job=job_ref(owner, owner.generation, spec.run_id),
        stage=PREPARE,
        type="Prepare",
        key=work.key,
        attempt=attempt,
        log_severity_level=_severity(spec),
        storage=spec.storage,
        image=work.pod.image,
        input_model=spec.input_model,
        data=[config for config in spec.data_configs if config.name in used],
        pins=pins,
        spec=spec.wire(),
    )


def stage_work(plan: Plan, stage: PlannedStage) -> Work:
    """A planned stage's work."""
    return Work(stage.name, stage.type, stage.key, stage.pod, plan.run_id)


def stage_document(
    owner: Owner, plan: Plan, stage: PlannedStage, done: Mapping[str, StageStatus], attempt: str
) -> StageDocument:
    """What a planned stage is told. `done` holds the stages before it, by name."""
    spec = plan.job_spec
    return StageDocument(
        job=job_ref(owner, plan.generation, plan.run_id),
        stage=stage.name,
        type=stage.type,
        key=stage.key,
        attempt=attempt,
        config=stage.config,
        evaluator=stage.evaluator,
        log_severity_level=_severity(spec),
        storage=spec.storage,
        image=stage.pod.image,
        gpus=stage.pod.gpus,
        input_model=_input_model(spec, stage),
        data=[config for config in spec.data_configs if config.name in stage.data],
        pins=plan.pins,
        inputs={role: _input(name, done) for role, name in stage.inputs.items()},
    )


def _severity(spec: JobSpec) -> LogSeverity | None:
    """How much the stages log; None for the default, so that trainer images that know no levels are told of none."""
    level = spec.engine.log_severity_level
    return None if level == Engine.model_fields["log_severity_level"].default else level


def _input_model(spec: JobSpec, stage: PlannedStage) -> InputModel | None:
    """What the stage reads of the input model: nothing, the model, or its adapter too."""
    if not stage.base:
        return None
    return spec.input_model if stage.base_adapter else spec.input_model.without_adapter()


def _input(name: str, done: Mapping[str, StageStatus]) -> StageInput:
    upstream = done[name]
    return StageInput(stage=name, key=upstream.key or "", digest=upstream.digest or "")


def probe_work(stage: PlannedStage, plan: Plan, about: str) -> Work:
    """The work of asking the store for a stage's manifest, after the Job `about` if that one left it in doubt."""
    return Work(f"probe-{stage.name}", "Probe", stage.key, plan.light_pod, plan.run_id, about)


def probe_document(owner: Owner, plan: Plan, stage: PlannedStage, attempt: str) -> StageDocument:
    """What a probe is told."""
    return StageDocument(
        job=job_ref(owner, plan.generation, plan.run_id),
        stage=stage.name,
        type="Probe",
        key=stage.key,
        attempt=attempt,
        log_severity_level=_severity(plan.job_spec),
        storage=plan.job_spec.storage,
    )


def artifacts_of(plan: Plan, done: Mapping[str, StageStatus]) -> list[Artifact]:
    """What a finished job publishes: the newest output of each role."""
    found: dict[str, Artifact] = {}
    for stage in plan.stages:
        status = done.get(stage.name)
        if stage.output in ARTIFACT_ROLES and status and status.digest:
            found[stage.output] = Artifact(
                name=stage.output, stage=stage.name, key=stage.key, digest=status.digest, bytes=status.bytes or 0
            )
    return list(found.values())


def publish_work(owner: Owner, plan: Plan, artifacts: list[Artifact]) -> Work:
    """Publish's work: another one for each job, generation and set of artifacts, as its report is about them."""
    content = {
        "job": [owner.namespace, owner.name, owner.uid],
        "generation": plan.generation,
        "artifacts": [artifact.wire() for artifact in artifacts],
    }
    return Work(PUBLISH, "Publish", keys.digest(content), plan.light_pod, plan.run_id)


def publish_document(
    owner: Owner, plan: Plan, work: Work, artifacts: list[Artifact], done: Mapping[str, StageStatus], attempt: str
) -> StageDocument:
    """What publish is told. `done` holds all stages, by name."""
    return StageDocument(
        job=job_ref(owner, plan.generation, plan.run_id),
        stage=PUBLISH,
        type="Publish",
        key=work.key,
        attempt=attempt,
        log_severity_level=_severity(plan.job_spec),
        storage=plan.job_spec.storage,
        image=work.pod.image,
        pins=plan.pins,
        spec=plan.spec,
        stages=[_input(stage.name, done) for stage in plan.stages],
        artifacts=artifacts,
    )
