"""A small world for the operator's core: one FinetuneJob, its Jobs, pods and plan, as dicts.

`World.step` does what the controller does around `reconcile`, and what the API server does with the outcome: status
goes through JSON and must be what the CRD would keep, to the letter. The trainer is `World.complete`, which answers a
stage document as the real one would.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.stage import ExitCode, Reason
from finetune_api.status import StageProgress
from finetune_operator import labels
from finetune_operator.actions import Create, Outcome, Seen, Stop
from finetune_operator.kueue import Queues
from finetune_operator.observe import attempts
from finetune_operator.places import has_begun
from finetune_operator.plan import PLAN_KEY, Plan, read_plan
from finetune_operator.policy import read_policy, tenancy
from finetune_operator.reasons import CONDITIONS, STAGES
from finetune_operator.reconcile import reconcile
from finetune_operator.settings import Settings
from finetune_operator.times import rfc3339
from finetune_operator.view import read_job

from .stored import STATUS_SCHEMA, as_stored, unique_keys
from .workloads import Workloads

Body = dict[str, Any]
SETTINGS = Settings(
    trainer_image="trainer:1",
    light_image="trainer-light:1",
    namespace="finetune-system",
    allowed_hosts=("127.0.0.1",),
)


class World(Workloads):
    """What exists: the job, its Jobs and pods, its plans, and what is in the store."""

    def __init__(self, spec: Body, *, namespace: str = "team", name: str = "phi3") -> None:
        super().__init__(namespace)
        self.name, self.uid = name, "owner-uid"
        self.spec = as_stored(spec)
        self.generation = 1
        self.status: Body = {}
        self.annotations: dict[str, str] = {}
        self.config_maps: dict[str, Body] = {}
        self.services: dict[str, Body] = {}
        self.settings = SETTINGS
        self.created: list[str] = []
        self.policies: dict[str, Body] = {}
        self.namespace_labels: dict[str, str] = {"kubernetes.io/metadata.name": namespace}
        self.lagging = False
        self.progress: dict[str, StageProgress] = {}
        self.queues: Queues | None = None
        self.has_place = True
        self._made = 0

    # --- the operator

    def body(self) -> Body:
        """The FinetuneJob as the API server shows it."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "namespace": self.namespace,
                "name": self.name,
                "uid": self.uid,
                "generation": self.generation,
                "resourceVersion": "1",
                "annotations": self.annotations,
            },
            "spec": self.spec,
            "status": self.status,
        }

    def plan(self) -> Plan | None:
        """The plan that status names."""
        name = (self.status.get("plan") or {}).get("name")
        found = self.config_maps.get(name or "")
        return read_plan(found["data"][PLAN_KEY]) if found else None

    def seen(self) -> Seen:
        """What the operator's watches show, and what it remembers of the Jobs that they do not show yet."""
        shown = {name: job for name, job in self.jobs.items() if name not in self.hidden}
        pods = [pod for name, pod in self.pods.items() if name not in self.hidden]
        self.memory = {name: job for name, job in self.memory.items() if name not in shown}
        found = attempts([*shown.values(), *self.memory.values()], pods, self.uid)
        held = tenancy(map(read_policy, self.policies.values()), self.namespace_labels)
        has_place = self.has_place or has_begun(self.body())
        return Seen(found, self.progress, self.plan(), self.queues, held, has_place)

    def decide(self) -> Outcome:
        """One decision, not carried out."""
        return reconcile(read_job(self.body()), self.seen(), self.settings, self.now)

    def step(self, *, write_status: bool = True) -> Outcome:
        """Decide, carry it out, and look once more: without news, there is nothing new to say."""
        outcome = self.decide()
        self.apply(outcome, write_status=write_status)
        if write_status:
            self._say_the_same_again()
        return outcome

    def apply(self, outcome: Outcome, *, write_status: bool = True) -> None:
        """What the API server makes of an outcome."""
        for action in outcome.actions:
            if isinstance(action, Stop):
                self.jobs[action.attempt.name]["metadata"]["deletionTimestamp"] = rfc3339(self.now)
            else:
                self._create(action)
        if outcome.status is not None and write_status:
            self.write(outcome.status.wire())

    def write(self, wire: Body) -> None:
        """Replace the status, as the CRD's schema and the API server let it."""
        stored = as_stored(wire)
        errors = [f"{error.json_path}: {error.message}" for error in STATUS_SCHEMA.iter_errors(stored)]
        assert not errors, errors
        assert unique_keys(stored)
        assert {stage.get("reason", "Running") for stage in stored.get("stages", [])} <= STAGES
        assert {condition["reason"] for condition in stored.get("conditions", [])} <= STAGES | CONDITIONS
        assert len(json.dumps(stored)) < 64 * 1024
        self.status = stored

    def _say_the_same_again(self) -> None:
        """Asked twice more while nothing happens, the second answer is the first: else it is written for ever."""
        said: list[Body] = []
        body, seen = self.body(), self.seen()
        for seconds in (1, 2):
            later = reconcile(read_job(body), seen, self.settings, self.now + timedelta(seconds=seconds))
            if later.status is None or later.actions:
                return
            body["status"] = as_stored(later.status.wire())
            said.append(body["status"])
        assert said[0] == said[1]

    def _create(self, action: Create) -> None:
        manifest = as_stored(action.manifest)
        name = manifest["metadata"]["name"]
        if manifest["kind"] != "Job":
            (self.config_maps if manifest["kind"] == "ConfigMap" else self.services).setdefault(name, manifest)
            return
        if name in self.jobs:
            self.memory[name] = copy.deepcopy(self.jobs[name])
            return
        self._made += 1
        manifest["metadata"] |= {"uid": f"job-{self._made}", "creationTimestamp": rfc3339(self.now)}
        self.jobs[name] = manifest
        self.memory[name] = copy.deepcopy(manifest)
        self.created.append(name)
        if self.lagging:
            self.hidden.add(name)

    # --- what people do

    def allow(self, name: str = "team", **spec: Any) -> None:
        """The platform team makes or changes a FinetunePolicy, as the API server stores it."""
        self.policies[name] = as_stored({"metadata": {"name": name}, "spec": spec})

    def edit(self, spec: Body) -> None:
        """The user changes the spec."""
        self.spec = as_stored(spec)
        self.generation += 1

    def upgrade(self, **fields: Any) -> None:
        """Another version of the operator, with other settings."""
        self.settings = replace(self.settings, **fields)

    # --- short cuts

    def finish_one(self) -> str:
        """One step, and the Job that it leaves unfinished runs and ends; the stage's name."""
        self.step()
        job = self.only()
        self.run_pod(job)
        self.step()
        document = self.document(job)
        if document.type == "Probe" and document.key not in self.store:
            self.refuse(job, ExitCode.RESULT_REFUSED, Reason.NOT_PUBLISHED, "nothing is there")
        else:
            self.complete(job)
        self.pass_time(5)
        return str(self.jobs[job]["metadata"]["labels"][labels.STAGE])

    def run_until(self, stage: str) -> str:
        """Let all before `stage` end well; the name of its Job, whose pod runs."""
        for _ in range(20):
            self.step()
            job = self.only()
            self.run_pod(job)
            if self.jobs[job]["metadata"]["labels"][labels.STAGE] == stage:
                self.step()
                return job
            self.complete(job)
            self.pass_time(5)
        raise AssertionError(f"{stage} never began: {self.status}")

    def run_to_the_end(self) -> list[str]:
        """Let everything end well; the stages that ran, in order."""
        ran: list[str] = []
        for _ in range(20):
            self.step()
            if self.status["phase"] in ("Succeeded", "Failed"):
                return ran
            ran.append(self.finish_one())
        raise AssertionError(f"it never ended: {self.status}")

    def stage(self, name: str) -> Body:
        """The stage's status."""
        (found,) = (item for item in self.status["stages"] if item["name"] == name)
        return dict(found)

    def states(self) -> dict[str, str]:
        """Stage → state."""
        return {item["name"]: item["state"] for item in self.status["stages"]}

    def condition(self, kind: str) -> Body:
        """The condition of this type."""
        (found,) = (item for item in self.status["conditions"] if item["type"] == kind)
        return dict(found)
