"""A small world for the operator's core: one FinetuneJob, its Jobs, pods and plan, as dicts.

`World.step` does what the controller does around `reconcile`, and what the API server does with the outcome: status
goes through JSON and must be what the CRD would keep, to the letter. The trainer is `World.complete`, which answers a
stage document as the real one would.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jsonschema import Draft4Validator

from finetune_api import API_VERSION, KIND, keys
from finetune_api.crd import crd
from finetune_api.job import JobSpec
from finetune_api.stage import (
    STAGE_ENV,
    DataPin,
    ExitCode,
    ModelPin,
    Pins,
    Prepared,
    Reason,
    StageDocument,
    StageResult,
)
from finetune_api.status import StageProgress
from finetune_operator import labels
from finetune_operator.actions import Create, Outcome, Seen, Stop
from finetune_operator.kueue import Queues
from finetune_operator.manifests import CONTAINER
from finetune_operator.observe import attempts
from finetune_operator.places import has_begun
from finetune_operator.plan import PLAN_KEY, Plan, read_plan
from finetune_operator.policy import read_policy, tenancy
from finetune_operator.reasons import CONDITIONS, STAGES
from finetune_operator.reconcile import reconcile
from finetune_operator.settings import Settings
from finetune_operator.times import rfc3339
from finetune_operator.view import read_job

Body = dict[str, Any]
START = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
SETTINGS = Settings(
    trainer_image="trainer:1",
    light_image="trainer-light:1",
    namespace="finetune-system",
    allowed_hosts=("127.0.0.1",),
)


def closed(schema: Body) -> Body:
    """A structural schema as jsonschema reads it: what the API server would prune is an error."""
    result = {name: value for name, value in schema.items() if not name.startswith("x-kubernetes-")}
    if "properties" in schema:
        result["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
        result["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = closed(schema["additionalProperties"])
    if "items" in schema:
        result["items"] = closed(schema["items"])
    return result


_STATUS = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
STATUS_SCHEMA = Draft4Validator(closed(_STATUS))


def as_stored(value: Any) -> Any:
    """`value` as the API server gives it back: JSON with sorted keys; NaN is refused."""
    return json.loads(json.dumps(value, sort_keys=True, allow_nan=False))


def unique_keys(status: Mapping[str, Any]) -> bool:
    """Whether list-maps have no key twice, which the API server would refuse."""
    pairs = (("stages", "name"), ("conditions", "type"), ("artifacts", "name"))
    names = [[item[key] for item in status.get(field, [])] for field, key in pairs]
    return all(len(set(each)) == len(each) for each in names)


class World:
    """What exists: the job, its Jobs and pods, its plans, and what is in the store."""

    def __init__(self, spec: Body, *, namespace: str = "team", name: str = "phi3") -> None:
        self.namespace, self.name, self.uid = namespace, name, "owner-uid"
        self.spec = as_stored(spec)
        self.generation = 1
        self.status: Body = {}
        self.annotations: dict[str, str] = {}
        self.jobs: dict[str, Body] = {}
        self.pods: dict[str, Body] = {}
        self.config_maps: dict[str, Body] = {}
        self.services: dict[str, Body] = {}
        self.store: dict[str, str] = {}
        self.now = START
        self.settings = SETTINGS
        self.model_digest = "a" * 64
        self.created: list[str] = []
        self.policies: dict[str, Body] = {}
        self.namespace_labels: dict[str, str] = {"kubernetes.io/metadata.name": namespace}
        # Jobs the watch does not show yet, and those this operator process remembers to have made.
        self.hidden: set[str] = set()
        self.lagging = False
        self.memory: dict[str, Body] = {}
        self.progress: dict[str, StageProgress] = {}
        self.node = "node-1"
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

    # --- what happens to Jobs

    def document(self, job: str) -> StageDocument:
        """What the Job's pod is told."""
        container = self.jobs[job]["spec"]["template"]["spec"]["containers"][0]
        (text,) = (item["value"] for item in container["env"] if item["name"] == STAGE_ENV)
        return StageDocument.model_validate_json(text)

    def of_stage(self, stage: str) -> list[str]:
        """The stage's Jobs that exist, oldest first."""
        return [name for name, job in self.jobs.items() if job["metadata"]["labels"][labels.STAGE] == stage]

    def unfinished(self) -> list[str]:
        """The Jobs that have not come to an end, and are not being deleted."""
        return [
            name
            for name, job in self.jobs.items()
            if not job.get("status", {}).get("conditions") and "deletionTimestamp" not in job["metadata"]
        ]

    def only(self) -> str:
        """The one Job that is unfinished."""
        (name,) = self.unfinished()
        return name

    def run_pod(self, job: str) -> None:
        """The Job's pod starts, and the Job leaves its queue."""
        self.jobs[job]["spec"].pop("suspend", None)
        container = {"name": CONTAINER, "ready": True, "state": {"running": {"startedAt": rfc3339(self.now)}}}
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(self.now)}
        self._pod(job, {"phase": "Running", "conditions": [ready], "containerStatuses": [container]})

    def lose_node(self, job: str) -> None:
        """The node of the Job's pod stops answering: the control plane marks its pods."""
        (ready,) = self.pods[job]["status"]["conditions"]
        ready |= {"status": "False", "lastTransitionTime": rfc3339(self.now)}

    def requeue(self, job: str) -> None:
        """Kueue takes the Job's place away: it is suspended again, and its pod is gone."""
        self.jobs[job]["spec"]["suspend"] = True
        del self.pods[job]

    def wait_pod(self, job: str, status: Body) -> None:
        """The Job's pod cannot start yet."""
        self._pod(job, {"phase": "Pending", **status})

    def unschedulable(self, job: str, message: str = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.") -> None:
        """No node has room for the Job's pod."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.wait_pod(job, {"conditions": [condition]})

    def complete(self, job: str, result: StageResult | str | None = None, *, lost: bool = False) -> None:
        """The Job ends well; `lost` takes its pod, and with it the result, away at once."""
        said = self.answer(job) if result is None else result
        text = said if isinstance(said, str) else said.model_dump_json(exclude_none=True)
        self._end_pod(job, 0, "Completed", text, gone=lost)
        self.end_job(job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")

    def fail(
        self, job: str, code: int, result: StageResult | str = "", *, gone: bool = False, reason: str = "Error"
    ) -> None:
        """The Job's pod ends with `code`, and the Job fails by its podFailurePolicy."""
        text = result if isinstance(result, str) else result.model_dump_json(exclude_none=True)
        self._end_pod(job, code, reason, text, gone=gone)
        message = (
            f"Container {CONTAINER} for pod {self.namespace}/{job}-x failed with exit code {code} "
            "matching FailJob rule at index 1"
        )
        self.end_job(job, "Failed", "PodFailurePolicy", message)

    def refuse(self, job: str, code: int, reason: Reason, message: str, **more: Any) -> None:
        """The trainer ends with a result that says why."""
        self.fail(job, code, StageResult(key=self.document(job).key, ok=False, reason=reason, message=message), **more)

    def catch_up(self) -> None:
        """The watch shows all there is."""
        self.hidden.clear()

    def restart(self) -> None:
        """Another operator process: it remembers nothing and lists everything."""
        self.memory.clear()
        self.hidden.clear()

    def delete(self, job: str) -> None:
        """Somebody deletes the Job; it and its pod are gone."""
        del self.jobs[job]
        self.memory.pop(job, None)
        self.pods.pop(job, None)

    def collect(self) -> None:
        """Deletions that the operator asked for come to an end."""
        for name in [name for name, job in self.jobs.items() if "deletionTimestamp" in job["metadata"]]:
            self.delete(name)

    def allow(self, name: str = "team", **spec: Any) -> None:
        """The platform team makes or changes a FinetunePolicy, as the API server stores it."""
        self.policies[name] = as_stored({"metadata": {"name": name}, "spec": spec})

    def edit(self, spec: Body) -> None:
        """The user changes the spec."""
        self.spec = as_stored(spec)
        self.generation += 1

    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    def upgrade(self, **fields: Any) -> None:
        """Another version of the operator, with other settings."""
        self.settings = replace(self.settings, **fields)

    def end_job(self, job: str, kind: str, reason: str, message: str) -> None:
        """The Job gets its final condition."""
        said = {"type": kind, "status": "True", "reason": reason, "message": message}
        self.jobs[job]["status"] = {"conditions": [{**said, "lastTransitionTime": rfc3339(self.now)}]}

    def _pod(self, job: str, status: Body) -> None:
        meta = self.jobs[job]["metadata"]
        self.pods[job] = {
            "metadata": {
                "name": f"{job}-x",
                "uid": f"pod-of-{meta['uid']}",
                "creationTimestamp": rfc3339(self.now),
                "labels": dict(meta["labels"]),
                "ownerReferences": [{"kind": "Job", "name": job, "uid": meta["uid"]}],
            },
            "spec": {"nodeName": self.node},
            "status": status,
        }

    def _end_pod(self, job: str, code: int, reason: str, message: str, *, gone: bool) -> None:
        before = self.pods.get(job, {}).get("status", {}).get("containerStatuses", [{}])[0].get("state", {})
        began = before.get("running", {}).get("startedAt", rfc3339(self.now))
        terminated = {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": began,
            "finishedAt": rfc3339(self.now),
        }
        state = {"name": CONTAINER, "state": {"terminated": terminated}}
        self._pod(job, {"phase": "Failed" if code else "Succeeded", "containerStatuses": [state]})
        if gone:
            del self.pods[job]

    # --- the trainer

    def answer(self, job: str) -> StageResult:
        """What a trainer that has no trouble says, and leaves in the store."""
        document = self.document(job)
        if document.type == "Prepare":
            return StageResult(key=document.key, ok=True, prepared=self.prepared(document))
        if document.type == "Publish":
            published = [item.model_copy(update={"attempt": f"made-{item.name}"}) for item in document.artifacts]
            return StageResult(key=document.key, ok=True, published=published)
        if document.type == "Probe":
            return StageResult(key=document.key, ok=True, digest=self.store[document.key], attempt="found", bytes=7)
        digest = self.store.setdefault(document.key, hashlib.sha256(document.key.encode()).hexdigest())
        return StageResult(
            key=document.key,
            ok=True,
            digest=digest,
            attempt=document.attempt,
            bytes=1000,
            metrics={"train_loss": 0.25} if document.type == "LoRA" else {},
        )

    def prepared(self, document: StageDocument) -> Prepared:
        assert document.spec is not None
        found = Pins(
            model=ModelPin(digest=self.model_digest, revision="main", architecture="Phi3ForCausalLM", size=9),
            data={
                item.name: DataPin(digest=hashlib.sha256(item.name.encode()).hexdigest(), size=5, rows=2)
                for item in document.data
            },
        )
        pins = document.pins or found
        stage_keys = keys.stage_keys(document.job.namespace, JobSpec.model_validate(document.spec), pins)
        done = {stage: self.store[key] for stage, key in stage_keys.items() if key in self.store}
        return Prepared(pins=pins, keys=keys.combined(stage_keys), done=done)

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
