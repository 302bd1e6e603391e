"""The Jobs and pods of a FinetuneJob, what can happen to them, and a trainer that answers as the real one would."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api import keys
from finetune_api.job import JobSpec
from finetune_api.stage import (
    STAGE_ENV,
    DataPin,
    ModelPin,
    Pins,
    Prepared,
    Reason,
    StageDocument,
    StageResult,
)
from finetune_operator import labels
from finetune_operator.manifests import CONTAINER
from finetune_operator.times import rfc3339

Body = dict[str, Any]
START = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


class Workloads:
    """Jobs by name, the pod of each, and what is in the store."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.jobs: dict[str, Body] = {}
        self.pods: dict[str, Body] = {}
        self.store: dict[str, str] = {}
        self.now = START
        self.model_digest = "a" * 64
        # Jobs the watch does not show yet, and those this operator process remembers to have made.
        self.hidden: set[str] = set()
        self.memory: dict[str, Body] = {}
        self.node = "node-1"

    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    # --- what there is

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

    # --- what happens to it

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
