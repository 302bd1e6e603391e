"""Any legal order of events: whatever happens, these hold, and when all goes well again, the job succeeds."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from finetune_api.stage import ExitCode, Reason
from finetune_operator import labels
from finetune_operator.actions import Create

from ..api.specs import Spec, changed, job_spec
from .world import World

EDITS: list[tuple[str, object]] = [
    ("passes[2].config.int4BlockSize", 64),
    ("passes[2].config.precision", "fp16"),
    ("passes[0].config.r", 8),
    ("dataConfigs[0].preProcessDataConfig.maxSeqLen", 64),
    ("maxAttempts", 1),
    ("runId", "again"),
    ("systems", [{"name": "cpu", "nodeSelector": {"zone": "a"}}]),
    ("suspend", True),
    ("activeDeadlineSeconds", 150),
    ("maxQueueSeconds", 150),
    ("ttlSecondsAfterFinished", 50),
    ("queueName", "team"),
]
CODES = [*(code for code in ExitCode if code), 1, 137, 143]
DONE = ("Succeeded", "Reused")


class AnyOrder(RuleBasedStateMachine):
    """One job in a world in which anything may happen between two decisions."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(job_spec())
        self.tries: dict[str, tuple[str, str]] = {}
        self.finished = False

    # --- the operator

    @rule(write_status=st.sampled_from([True, True, True, False]))
    def operator_acts(self, *, write_status: bool) -> None:
        recorded = {
            (item["name"], item.get("key")) for item in self.world.status.get("stages", []) if item["state"] in DONE
        }
        outcome = self.world.decide()
        for action in outcome.actions:
            if isinstance(action, Create) and action.manifest["kind"] == "Job":
                meta = action.manifest["metadata"]
                work = (meta["labels"][labels.STAGE], meta["annotations"][labels.KEY])
                assert work not in recorded, f"{work} is done and is created again"
        self.world.step(write_status=write_status)

    @rule()
    def operator_restarts(self) -> None:
        self.world.restart()

    @rule()
    def operator_is_upgraded(self) -> None:
        self.world.upgrade(trainer_image=self.world.settings.trainer_image + "1")

    @rule(lagging=st.booleans())
    def watch_lags_or_catches_up(self, *, lagging: bool) -> None:
        self.world.lagging = lagging
        if not lagging:
            self.world.catch_up()

    @rule(free=st.booleans())
    def places_of_the_namespace_fill_or_are_free(self, *, free: bool) -> None:
        self.world.allow(limits={"maxRunningJobs": 1})
        self.world.has_place = free

    # --- Jobs

    def a_job(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.world.unfinished())))

    @precondition(lambda self: self.world.unfinished())
    @rule(data=st.data())
    def pod_runs(self, data: st.DataObject) -> None:
        self.world.run_pod(self.a_job(data))

    @precondition(lambda self: self.world.unfinished())
    @rule(data=st.data())
    def job_succeeds(self, data: st.DataObject) -> None:
        self.end_well(self.a_job(data))

    @precondition(lambda self: self.world.unfinished())
    @rule(data=st.data(), published=st.booleans())
    def result_is_lost(self, data: st.DataObject, *, published: bool) -> None:
        job = self.a_job(data)
        if published and self.world.document(job).type != "Probe":
            self.world.answer(job)
        self.world.complete(job, "", lost=published)

    @precondition(lambda self: self.world.unfinished())
    @rule(data=st.data(), code=st.sampled_from(CODES), gone=st.booleans())
    def job_fails(self, data: st.DataObject, code: int, *, gone: bool) -> None:
        self.world.fail(self.a_job(data), code, gone=gone)

    @rule(node=st.sampled_from(["node-1", "node-2", "node-3"]))
    def next_pods_run_on(self, node: str) -> None:
        self.world.node = node

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def node_is_lost(self, data: st.DataObject) -> None:
        self.world.lose_node(data.draw(st.sampled_from(self.running())))

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def queue_takes_its_place_away(self, data: st.DataObject) -> None:
        self.world.requeue(data.draw(st.sampled_from(self.running())))

    def running(self) -> list[str]:
        pods = self.world.pods
        return sorted(
            job for job in self.world.unfinished() if job in pods and pods[job]["status"]["phase"] == "Running"
        )

    @precondition(lambda self: set(self.world.jobs) - self.world.hidden)
    @rule(data=st.data())
    def job_is_deleted_by_hand(self, data: st.DataObject) -> None:
        self.world.delete(data.draw(st.sampled_from(sorted(set(self.world.jobs) - self.world.hidden))))

    @rule()
    def deletions_end(self) -> None:
        self.world.collect()

    @rule(seconds=st.sampled_from([1, 10, 100, 1000]))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    # --- the user

    @rule(edit=st.sampled_from(EDITS), also=st.booleans())
    def spec_is_edited(self, edit: tuple[str, object], *, also: bool) -> None:
        self.edit(changed(self.world.spec if also else job_spec(), *edit))

    @rule()
    def edits_are_taken_back(self) -> None:
        self.edit(job_spec())

    def edit(self, spec: Spec) -> None:
        if spec != self.world.spec:
            self.world.edit(spec)
            self.finished = False

    # --- what holds always

    @invariant()
    def one_unfinished_job_for_each_work(self) -> None:
        names = [self.world.jobs[job]["metadata"]["labels"][labels.IDENTITY] for job in self.world.unfinished()]
        assert len(set(names)) == len(names)

    @invariant()
    def a_name_is_one_try_of_one_work(self) -> None:
        for name, job in self.world.jobs.items():
            found = job["metadata"]["labels"]
            self.tries.setdefault(name, (found[labels.IDENTITY], found[labels.TRY]))
        assert len(set(self.tries.values())) == len(self.tries)

    @invariant()
    def artifacts_are_those_of_a_finished_job(self) -> None:
        status = self.world.status
        assert bool(status.get("artifacts")) == (status.get("phase") == "Succeeded")
        assert len(status.get("artifacts", [])) in (0, 3)

    @invariant()
    def a_finished_job_stays_finished(self) -> None:
        succeeded = self.world.status.get("phase") == "Succeeded"
        assert succeeded or not self.finished
        self.finished = self.finished or (
            succeeded and self.world.status["observedGeneration"] == self.world.generation
        )

    @invariant()
    def attempts_stay_below_their_limit(self) -> None:
        for job in self.world.jobs.values():
            assert int(job["metadata"]["labels"][labels.ATTEMPT]) <= 3

    @invariant()
    def times_are_in_order(self) -> None:
        for stage in self.world.status.get("stages", []):
            assert stage["ranSeconds"] >= 0
            assert stage.get("runningUntil", "9") >= stage.get("runningSince", "")
            assert "waitingSince" not in stage or stage["state"] in ("Pending", "Queued", "Failed")

    # --- and when all goes well again

    def end_well(self, job: str) -> None:
        document = self.world.document(job)
        if document.type == "Probe" and document.key not in self.world.store:
            self.world.refuse(job, ExitCode.RESULT_REFUSED, Reason.NOT_PUBLISHED, "nothing is there")
        else:
            self.world.complete(job)

    def teardown(self) -> None:
        world = self.world
        world.lagging = False
        world.has_place = True
        world.catch_up()
        self.edit(changed(job_spec(), "runId", "once more"))
        for _ in range(60):
            world.collect()
            world.pass_time(1000)
            world.step()
            if world.status["phase"] == "Succeeded":
                break
            for job in world.unfinished():
                world.run_pod(job)
                self.end_well(job)
        assert world.status["phase"] == "Succeeded", world.status
        assert not world.unfinished()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
