"""What must hold whatever is killed: looked at while jobs run, at their end, and after their deletion.

- every job ends as it should (`ends_of_all`);
- no result is published twice: a manifest, once there, never changes (`Observer`);
- no Job is made for a stage that is recorded as done (`Observer`);
- status is true: what it names is in the store, byte for byte (`untrue_words`);
- nothing outlives its job (`leftovers`).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from finetune_api import layout
from finetune_api.status import StageState, Status
from finetune_local.client import CONFIG_MAPS, JOBS, PODS, ApiClient, Object, Resource, persist, uid_of
from finetune_local.informer import DELETED, Informer

SERVICES = Resource("v1", "services", "Service")
FINETUNE_JOBS = Resource("finetune.dev/v1alpha1", "finetunejobs", "FinetuneJob")
DONE = (StageState.SUCCEEDED, StageState.REUSED)
FINAL = ("Succeeded", "Failed")
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Expectation:
    """A job and how it must end; an empty phase: deleted. `generation`: the last one that is asked for."""

    name: str
    phase: str
    generation: int


@dataclass
class Observer:
    """Follows the cluster and the store's folder, and notes what should not have been."""

    client: ApiClient
    store: Path
    violations: list[str] = field(default_factory=list)
    pods: int = 0
    # How many statuses were seen to change.
    written: int = 0
    _jobs: dict[str, Object] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)
    _manifests: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Informer(self.client, FINETUNE_JOBS, self._job_changed).run())
            tasks.create_task(Informer(self.client, JOBS, self._stage_job_changed).run())
            tasks.create_task(Informer(self.client, PODS, self._pod_changed).run())
            tasks.create_task(self._watch_store())

    @property
    def manifests(self) -> int:
        """How many results the store holds."""
        return len(self._manifests)

    def status(self, name: str) -> Status:
        """The job's status as last seen."""
        return Status.model_validate(self._jobs.get(name, {}).get("status") or {})

    def has_ended(self, wanted: Expectation) -> bool:
        """Whether the job is where nothing more will happen to it."""
        if not wanted.phase:
            return wanted.name in self._gone
        item = self._jobs.get(wanted.name)
        if item is None or item["metadata"]["generation"] < wanted.generation or item["spec"].get("suspend"):
            return False
        status = item.get("status") or {}
        return status.get("phase") in FINAL and status.get("observedGeneration") == item["metadata"]["generation"]

    def _job_changed(self, kind: str, item: Object) -> None:
        name = item["metadata"]["name"]
        if kind == DELETED:
            self._gone.add(name)
            self._jobs.pop(name, None)
        else:
            self.written += self._jobs.get(name, {}).get("status") != item.get("status")
            self._jobs[name] = item

    def _stage_job_changed(self, kind: str, item: Object) -> None:
        if kind == DELETED or uid_of(item) in self._seen:
            return
        self._seen.add(uid_of(item))
        labels, annotations = item["metadata"]["labels"], item["metadata"].get("annotations") or {}
        name, stage = labels["finetune.dev/job"], labels["finetune.dev/stage"]
        for known in self.status(name).stages:
            done = known.name == stage and known.state in DONE and known.key == annotations.get("finetune.dev/key")
            if done and known.job != item["metadata"]["name"]:
                self.violations.append(
                    f"Job {item['metadata']['name']} was made for {name}'s {stage}, done by {known.job}"
                )

    def _pod_changed(self, kind: str, item: Object) -> None:
        if kind != DELETED and uid_of(item) not in self._seen:
            self._seen.add(uid_of(item))
            self.pods += 1

    async def _watch_store(self) -> None:
        while True:
            self.look_at_store()
            await asyncio.sleep(LOOK_SECONDS)

    def look_at_store(self) -> None:
        """Compare every manifest with what it was."""
        for file in sorted(self.store.glob("*/**/manifest.json")):
            path, digest = str(file.relative_to(self.store)), sha256(file.read_bytes()).hexdigest()
            if self._manifests.setdefault(path, digest) != digest:
                self.violations.append(f"{path} was published twice: {self._manifests[path]}, then {digest}")
                self._manifests[path] = digest
        for path in [path for path in self._manifests if not (self.store / path).exists()]:
            self.violations.append(f"{path} was there and is gone")
            del self._manifests[path]


async def ends_of_all(observer: Observer, jobs: list[Expectation], seconds: float) -> list[str]:
    """Wait for every job's end; those that did not end within `seconds`, or ended otherwise."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not all(map(observer.has_ended, jobs)) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)
    wrong: list[str] = []
    for item in jobs:
        status = observer.status(item.name)
        if not observer.has_ended(item):
            wrong.append(f"{item.name} did not end; {status.phase}: {status.message}")
        elif item.phase and status.phase != item.phase:
            wrong.append(f"{item.name} ended as {status.phase}, not {item.phase}: {status.message}")
    return wrong


def untrue_words(observer: Observer, store: Path, jobs: list[Expectation]) -> list[str]:
    """Where a status differs from the store."""
    observer.look_at_store()
    wrong: list[str] = []
    for item in jobs:
        status = observer.status(item.name)
        for stage in status.stages:
            if stage.state in DONE and stage.key and stage.digest and stage.type not in ("Prepare", "Publish"):
                found = _digest(store / layout.manifest_path(stage.key))
                if found != stage.digest:
                    wrong.append(
                        f"{item.name}'s {stage.name} is {stage.state} with {stage.digest}; the store has {found}"
                    )
        if status.phase == "Succeeded":
            wrong += _unpublished(item, status, store)
    return wrong


def _unpublished(item: Expectation, status: Status, store: Path) -> list[str]:
    """What a job that succeeded says it has published and has not."""
    # A generation that only suspended or resumed it goes on with the plan, and publishes as the plan's.
    generation = status.plan.generation if status.plan else 0
    path = store / layout.model_manifest_path("default", item.name, generation)
    if not path.exists():
        return [f"{item.name} succeeded, and {path.relative_to(store)} is not there"]
    said = {(artifact.name, artifact.digest) for artifact in status.artifacts}
    there = {(artifact["name"], artifact["digest"]) for artifact in json.loads(path.read_bytes())["artifacts"]}
    return [] if said == there else [f"{item.name}: status names {sorted(said)}, the model manifest {sorted(there)}"]


def _digest(path: Path) -> str | None:
    return sha256(path.read_bytes()).hexdigest() if path.exists() else None


async def leftovers(client: ApiClient, seconds: float) -> list[str]:
    """What of the operator's objects is still there after `seconds`, all jobs being deleted."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found: list[str] = []
        for resource in (FINETUNE_JOBS, JOBS, PODS, CONFIG_MAPS, SERVICES):
            answer = await persist(lambda resource=resource: client.get(resource.path("default")))
            found += [
                f"{resource.kind} {item['metadata']['name']} outlived its job"
                for item in answer["items"]
                if resource is FINETUNE_JOBS or "finetune.dev/job" in (item["metadata"].get("labels") or {})
            ]
        if not found or asyncio.get_running_loop().time() > deadline:
            return found
        await asyncio.sleep(LOOK_SECONDS)
