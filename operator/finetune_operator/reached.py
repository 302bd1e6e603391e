"""How far a pass over a job's stages came → the state of its run, with the stages that are still to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from finetune_api import layout
from finetune_api.builder import ModelBuilderConfig
from finetune_api.job import JobSpec
from finetune_api.outline import PUBLISH, outline
from finetune_api.stage import Artifact
from finetune_api.status import ArtifactStatus, Phase, PlanRef, StageState, StageStatus
from finetune_operator.attempts import DONE, NODE_UNREACHABLE
from finetune_operator.conditions import RunState
from finetune_operator.plan import Plan, plan_name
from finetune_operator.view import JobView


@dataclass(frozen=True)
class Reached:
    """`stages` are those that were looked at, in order; `plan` is None while one is prepared."""

    view: JobView
    spec: JobSpec
    plan: Plan | None
    stages: Sequence[StageStatus]

    def at(self, current: StageStatus) -> RunState:
        """The run's state while `current`, the last of the stages, is not done."""
        shown = replace(self._base(), stages=[*self.stages, *self._to_come()], stage=current)
        place = f"{current.name}: {current.message or current.reason or current.state}"
        if current.reason == NODE_UNREACHABLE and current.state != StageState.FAILED:
            return replace(shown, phase=Phase.RUNNING, reason=NODE_UNREACHABLE, message=place, stalled=True)
        match current.state:
            case StageState.FAILED:
                retry = "Correct what it names and edit the spec, or change spec.runId, to try again."
                message = f"{place} {retry}"
                return replace(shown, phase=Phase.FAILED, reason=current.reason or "Failed", message=message)
            case StageState.QUEUED:
                return replace(shown, phase=Phase.QUEUED, reason=current.reason or "Queued", message=place)
            case StageState.RUNNING:
                return replace(shown, phase=Phase.RUNNING, reason="Running", message=f"{current.name} is running.")
        started = any(stage.state in DONE for stage in self.stages)
        return replace(
            shown,
            phase=Phase.RUNNING if started else Phase.PENDING,
            reason=current.reason or "Pending",
            message=place,
        )

    def at_the_end(self, artifacts: list[ArtifactStatus]) -> RunState:
        """The run's state once all is done and published."""
        names = ", ".join(artifact.name for artifact in artifacts) or "no model"
        return replace(
            self._base(),
            phase=Phase.SUCCEEDED,
            reason="Succeeded",
            message=f"All stages are done; published: {names}.{_missed_goals(self.stages)}{self._not_run()}",
            artifacts=artifacts,
            stages=self.stages,
        )

    def _not_run(self) -> str:
        """Which models could not be run on their own execution provider, as a sentence; empty where all were."""
        return "".join(
            f" {item.name} was not run on {item.config.execution_provider}, which no pod has: its structure was "
            "verified, and a CPU build was run in its place."
            for item in self.spec.passes
            if isinstance(item.config, ModelBuilderConfig) and item.config.stand_in() is not None
        )

    def _base(self) -> RunState:
        before, plan = self.view.status, self.plan
        if plan is None:
            # While another generation is prepared, the plan before it stays known: its pins are kept, and the edit
            # may be taken back.
            return RunState(Phase.PENDING, "Pending", "", pins=before.pins, plan=before.plan)
        reference = PlanRef(name=plan_name(self.view.owner.name, plan), generation=plan.generation)
        return RunState(Phase.PENDING, "Pending", "", pins=plan.pins, plan=reference)

    def _to_come(self) -> list[StageStatus]:
        there = {stage.name for stage in self.stages}
        keys = {stage.name: stage.key for stage in self.plan.stages} if self.plan else {}
        names = [(stage.name, stage.type) for stage in outline(self.spec)] + [(PUBLISH, "Publish")]
        return [self._pending(name, kind, keys.get(name)) for name, kind in names if name not in there]

    def _pending(self, name: str, kind: str, key: str | None) -> StageStatus:
        """A stage still to come; what is recorded of an equal key stays. Publish's record is the artifacts'."""
        known = next((stage for stage in self.view.status.stages if stage.name == name != PUBLISH), None)
        if known and known.key is not None and (known.key == key or key is None) and known.state in DONE:
            return known
        return StageStatus(name=name, type=kind, state=StageState.PENDING, key=key)


def _missed_goals(stages: Sequence[StageStatus]) -> str:
    """What evaluations with onMissedGoal warn have to say; empty where every goal was met."""
    missed = [
        f"{name.removesuffix('/goal')} ({stage.name})"
        for stage in stages
        for name, met in (stage.metrics or {}).items()
        if name.endswith("/goal") and not met
    ]
    return f" Goals missed: {', '.join(missed)}." if missed else ""


def published(plan: Plan, item: Artifact) -> ArtifactStatus:
    """An artifact of publish's result as status names it; its URI is computed here, never taken from a pod."""
    root = plan.job_spec.storage.uri
    return ArtifactStatus(
        name=item.name,
        stage=item.stage,
        uri=layout.join(root, layout.attempt_path(item.key, item.attempt or "")),
        manifest=layout.join(root, layout.manifest_path(item.key)),
        digest=item.digest,
        bytes=item.bytes or None,
    )
