"""Job, plan and what is observed → what to do, and what to say. Pure; asked again after every event.

`reconcile` reads as the list of its steps. Nothing is remembered between calls: the job's status, its plan and its
Jobs are all there is, so the operator may die at any instant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from finetune_api import layout
from finetune_api.job import JobSpec
from finetune_api.keys import known_stage_keys
from finetune_api.outline import PREPARE, PUBLISH, REPORT, outline
from finetune_api.stage import Pins, Reason, StageDocument, StageResult
from finetune_api.status import Phase, StageState, StageStatus
from finetune_operator.actions import Action, Create, Outcome, Seen, Stop
from finetune_operator.attempts import DONE, LIGHT, Advance, Around, Ticket, advance, again
from finetune_operator.cleaning import cleaned
from finetune_operator.conditions import FINAL, RunState, summarise, waiting_for_place, withheld
from finetune_operator.documents import (
    artifacts_of,
    prepare_document,
    prepare_work,
    probe_document,
    probe_work,
    publish_document,
    publish_work,
    stage_document,
    stage_work,
)
from finetune_operator.halted import refused, suspended
from finetune_operator.limits import limited
from finetune_operator.manifests import Attempted, Manifest, Work, plan_config_map, stage_objects
from finetune_operator.plan import Plan, PlannedStage, kept_pins, light_pod, make_plan, source_of
from finetune_operator.policy_rules import violations
from finetune_operator.reached import Reached, published
from finetune_operator.settings import Settings
from finetune_operator.view import JobView, admissible


def reconcile(view: JobView, seen: Seen, settings: Settings, now: datetime) -> Outcome:
    """Decide for one job, as it is now."""
    if view.deleting or view.managed_elsewhere:
        return Outcome()
    spec, problems = admissible(view, settings)
    if spec is None or problems:
        return refused(view, seen, problems, now)
    forbidden = "; ".join(map(str, violations(seen.tenancy, spec, settings.allowed_hosts)))
    spec, settings = seen.tenancy.resolved(spec), seen.tenancy.settings(settings)
    run = _Run(view, spec, seen, settings, now)
    state = run.go_on()
    # What is finished has nothing to suspend.
    if spec.suspend and state.phase != Phase.SUCCEEDED:
        return suspended(view, seen, now)
    unmade = {str(manifest["metadata"]["name"]) for manifest in run.create}
    if forbidden:
        at_work = any(attempt.name in run.wanted for attempt in seen.running())
        state = withheld(state, view.status, unmade, forbidden, at_work=at_work)
        run.create.clear()
    elif unmade and not seen.has_place:
        state = waiting_for_place(state, view.status, unmade, _why_no_place(seen))
        run.create.clear()
        run.requeue = None
    # What runs with a key that is no longer wanted is stopped before anything new takes its place.
    stops: list[Action] = [Stop(item) for item in seen.running() if item.name not in run.wanted]
    creates: list[Action] = [Create(manifest) for manifest in run.create]
    status = summarise(state, view.owner.generation, view.status, now)
    if state.phase not in FINAL:
        return Outcome([*stops, *creates], status, run.requeue)
    old, later = cleaned(view, spec, seen, now)
    return Outcome([*stops, *creates, *old], status, _sooner(run.requeue, later))


def _why_no_place(seen: Seen) -> str:
    # Without the number of those before it: a status that changes for all of them at each end would be many writes.
    limit, policy = seen.tenancy.max_running() or (0, "")
    return (
        f"It waits for a place: {limit} jobs of this namespace run at a time, and the oldest goes next "
        f"(FinetunePolicy {policy}, limits.maxRunningJobs)."
    )


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((each for each in (one, other) if each is not None), default=None)


class _Run:
    """One pass over the stages in order. Collects what to create and which Jobs are still wanted."""

    def __init__(self, view: JobView, spec: JobSpec, seen: Seen, settings: Settings, now: datetime) -> None:
        self.view, self.spec, self.seen, self.settings, self.now = view, spec, seen, settings, now
        self.owner = view.owner
        self.source = source_of(view.raw_spec)
        self.overlay = seen.tenancy.overlay()
        self.before = {stage.name: stage for stage in view.status.stages}
        self.create: list[Manifest] = []
        self.wanted: set[str] = set()
        self.requeue: float | None = None
        self.stages: list[StageStatus] = []
        self.plan: Plan | None = None

    def go_on(self) -> RunState:
        """Prepare, then every planned stage, then publish: as far as it goes today."""
        plan = self._planned()
        if plan is None:
            return self._reached().at(self.stages[-1])
        self.plan = plan
        for place, stage in enumerate(plan.stages, start=1):
            status = self._stage(plan, stage)
            self.stages.append(status)
            if status.state not in DONE:
                if status.state != StageState.FAILED:
                    self._keep_later(plan, plan.stages[place:])
                return self._reached().at(status)
        return self._publish(plan)

    def _reached(self) -> Reached:
        return Reached(self.view, self.spec, self.plan, self.stages)

    # --- prepare and plan

    def _planned(self) -> Plan | None:
        """The plan that holds for this spec, made now if prepare has just ended."""
        plan = self.seen.plan
        if plan is not None and plan.source == self.source:
            self.stages.append(self._prepared_before(plan))
            return plan
        pins = kept_pins(self.spec, plan)
        pod = light_pod(self.spec, self.settings, self.overlay)
        work = prepare_work(self.owner, self.spec, self.source, pins, pod)

        def document(attempt: str) -> StageDocument:
            return prepare_document(self.owner, self.spec, work, pins, attempt)

        step = self._advance(work, document, accepts=lambda result: self._pins_all(result, pins))
        self.stages.append(step.status)
        if step.result is None or step.result.prepared is None:
            self._keep_running(pins)
            return None
        generation, prepared = self.owner.generation, step.result.prepared
        plan = make_plan(
            self.owner.namespace, generation, self.source, self.spec, prepared, self.settings, self.overlay
        )
        self.create.append(plan_config_map(self.owner, plan))
        return plan

    def _pins_all(self, result: StageResult, kept: Pins | None) -> bool:
        """Whether prepare pinned all that the job's stages read, and left alone what was pinned before."""
        if result.prepared is None:
            return False
        pins = result.prepared.pins
        if not {name for stage in outline(self.spec) for name in stage.data} <= set(pins.data):
            return False
        return kept is None or (kept.model == pins.model and kept.data.items() <= pins.data.items())

    def _keep_running(self, pins: Pins | None) -> None:
        """While an edited spec is prepared, what runs goes on if the new plan will want it."""
        if pins is not None:
            wanted = set(known_stage_keys(self.owner.namespace, self.spec, pins).values())
            self.wanted |= {attempt.name for attempt in self.seen.attempts if attempt.key in wanted}

    def _prepared_before(self, plan: Plan) -> StageStatus:
        known = self.before.get(PREPARE)
        if known and known.state == StageState.SUCCEEDED:
            return known
        return StageStatus(name=PREPARE, type="Prepare", state=StageState.SUCCEEDED, message="The plan is there.")

    # --- planned stages

    def _stage(self, plan: Plan, stage: PlannedStage) -> StageStatus:
        """A stage's status: recorded, found in the store, or as its attempts have it."""
        recorded = self.before.get(stage.name)
        if recorded and recorded.state in DONE and recorded.key == stage.key and recorded.digest:
            return self._kept(plan, recorded)
        if stage.name in plan.reused:
            return self._reused(plan, stage)
        done = {status.name: status for status in self.stages}
        work = stage_work(plan, stage)

        def document(attempt: str) -> StageDocument:
            return stage_document(self.owner, plan, stage, done, attempt)

        step = self._advance(work, document, accepts=lambda result: result.digest is not None)
        return self._asked_store(plan, stage, work, document, step) if step.lost else step.status

    def _kept(self, plan: Plan, recorded: StageStatus) -> StageStatus:
        """A recorded stage; in a later plan than the one it ran for, it is shown as reused."""
        earlier = self.view.status.plan
        if recorded.state == StageState.SUCCEEDED and earlier and earlier.generation < plan.generation:
            return recorded.model_copy(update={"state": StageState.REUSED, "reason": "Reused", "progress": None})
        return recorded

    def _reused(self, plan: Plan, stage: PlannedStage) -> StageStatus:
        status = StageStatus(
            name=stage.name,
            type=stage.type,
            state=StageState.REUSED,
            key=stage.key,
            digest=plan.reused[stage.name],
            reason="Reused",
            message="The store has this result already.",
        )
        if stage.type != "Evaluate":
            return status
        # An evaluation is its figures, and those are in the store alone.
        step = self._probe(plan, stage)
        if step.result and step.result.digest == status.digest:
            return status.model_copy(update={"metrics": step.result.metrics, "attempt": step.result.attempt})
        return step.status.model_copy(update={"name": stage.name, "type": stage.type, "key": stage.key})

    def _asked_store(
        self,
        plan: Plan,
        stage: PlannedStage,
        work: Work,
        document: Callable[[str], StageDocument],
        step: Advance,
    ) -> StageStatus:
        """A stage that ended well and whose result is lost: a CPU probe asks the store, never a GPU Job."""
        probe = self._probe(plan, stage, about=step.status.job or "")
        if probe.result and probe.result.digest:
            result = probe.result
            return step.status.model_copy(
                update={
                    "state": StageState.SUCCEEDED,
                    "reason": None,
                    "message": None,
                    "finished_at": probe.status.finished_at,
                    "digest": result.digest,
                    "attempt": result.attempt,
                    "bytes": result.bytes or None,
                    "metrics": result.metrics or None,
                }
            )
        if probe.status.state != StageState.FAILED:
            return step.status
        if probe.status.reason == Reason.NOT_PUBLISHED:
            return self._collect(again(self._ticket(work, document, _has_digest), step, self.now)).status
        message = f"Its result is lost, and asking the store failed: {probe.status.message}"
        return step.status.model_copy(
            update={"state": StageState.FAILED, "reason": probe.status.reason, "message": message[:1024]}
        )

    def _probe(self, plan: Plan, stage: PlannedStage, about: str = "") -> Advance:
        work = probe_work(stage, plan, about)
        return self._advance(work, lambda attempt: probe_document(self.owner, plan, stage, attempt), _has_digest)

    def _keep_later(self, plan: Plan, later: Sequence[PlannedStage]) -> None:
        """What runs already further on, as after an edit that put a stage before it, goes on meanwhile."""
        identities = {stage_work(plan, stage).identity(self.owner) for stage in later}
        self.wanted |= {attempt.name for attempt in self.seen.attempts if attempt.identity in identities}

    # --- publish

    def _publish(self, plan: Plan) -> RunState:
        done = {status.name: status for status in self.stages}
        wanted = artifacts_of(plan, done)
        work = publish_work(self.owner, plan, wanted)
        report = (REPORT, PUBLISH, work.key)
        recorded = self.before.get(PUBLISH)
        if recorded and recorded.state in DONE and recorded.key == work.key:
            self.stages.append(recorded)
            return self._reached().at_the_end(list(self.view.status.artifacts))

        def document(attempt: str) -> StageDocument:
            return publish_document(self.owner, plan, work, wanted, done, attempt)

        def complete(result: StageResult) -> bool:
            named = [item for item in result.published if (item.name, item.stage, item.key) != report]
            said = {(item.name, item.stage, item.key, item.digest) for item in named if item.attempt}
            return said == {(item.name, item.stage, item.key, item.digest) for item in wanted}

        step = self._advance(work, document, complete)
        self.stages.append(step.status)
        if step.result is None:
            return self._reached().at(step.status)
        return self._reached().at_the_end([published(plan, item) for item in step.result.published])

    # --- what they share

    def _ticket(
        self, work: Work, document: Callable[[str], StageDocument], accepts: Callable[[StageResult], bool]
    ) -> Ticket:
        def make(number: int, attempt: int, excluded: list[str]) -> list[Manifest]:
            return stage_objects(
                self.owner,
                work,
                document(work.job_name(self.owner, number)),
                Attempted(number, attempt, tuple(excluded)),
                self.spec,
                self.settings,
            )

        return Ticket(
            stage=work.stage,
            type=work.type,
            key=work.key,
            identity=work.identity(self.owner),
            max_attempts=self.spec.max_attempts,
            job_name=lambda number: work.job_name(self.owner, number),
            make=make,
            accepts=accepts,
            queue=self.spec.queue_name,
            evidence=lambda name: layout.join(self.spec.storage.uri, layout.failure_path(work.key, name)),
        )

    def _advance(
        self, work: Work, document: Callable[[str], StageDocument], accepts: Callable[[StageResult], bool]
    ) -> Advance:
        ticket = self._ticket(work, document, accepts)
        previous = self.before.get(work.stage)
        progress = self.seen.progress.get(previous.job) if previous and previous.job else None
        around = Around(self.settings, self.now, progress, self.seen.queues)
        step = advance(ticket, self.seen.attempts, previous, around)
        if step.lost and work.type in LIGHT:
            step = again(ticket, step, self.now)
        if work.type != "Probe":
            # A probe has no record of its own, and takes seconds.
            step = limited(step, ticket.recorded(previous), self.stages, self.spec, self.now)
        return self._collect(step)

    def _collect(self, step: Advance) -> Advance:
        self.create.extend(step.create)
        self.wanted |= step.wanted
        self.requeue = _sooner(self.requeue, step.requeue)
        return step


def _has_digest(result: StageResult) -> bool:
    return result.digest is not None
