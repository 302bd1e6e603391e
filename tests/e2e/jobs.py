"""FinetuneJobs of the end-to-end tests, and what they do to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetune_api.stage import Manifest
from finetune_api.status import ArtifactStatus, Status
from finetune_cli.words import ended

from .api import FINETUNE_JOBS, JOBS, PODS, Body, wait_for
from .places import SECRET, Place
from .statuses import judge

TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
STEPS = 20


@dataclass(frozen=True)
class Inputs:
    """URIs of a tiny base model and of rows, the same for every test of a session."""

    base: str
    train: str
    test: str


def data(name: str, uri: str, template: str = TEMPLATE) -> Body:
    """A data config."""
    return {
        "name": name,
        "loadDatasetConfig": {"dataFiles": [uri]},
        "preProcessDataConfig": {
            "textCols": ["phrase", "tone"],
            "textTemplate": template,
            "maxSeqLen": 128,
            "completionOnlyLoss": True,
        },
    }


def training(kind: str = "LoRA", steps: int = STEPS, **config: Any) -> Body:
    """A fine-tuning pass."""
    arguments = {
        "seed": 1,
        "learningRate": 0.005,
        "perDeviceTrainBatchSize": 4,
        "maxSteps": steps,
        "loggingSteps": 1,
    }
    return {
        "name": kind.lower(),
        "type": kind,
        "config": {"trainDataConfig": "train", "r": 8, "alpha": 8.0, "trainingArgs": arguments, **config},
    }


MERGE: Body = {"name": "merge", "type": "MergeAdapterWeights"}
# A base model trained for a moment is sure of nothing, so quantization often changes its mind; the default is 0.9.
BUILD: Body = {"name": "builder", "type": "ModelBuilder", "config": {"precision": "int4", "minTop1Agreement": 0.7}}


# Asked of the few test rows.
METRIC: Body = {"name": "few", "type": "accuracy", "dataConfig": "test", "maxNewTokens": 6}


@dataclass(frozen=True)
class Tenant:
    """A namespace with the storage's Secret, and the inputs."""

    place: Place
    namespace: str
    inputs: Inputs

    def job(self, name: str, passes: list[Body], **spec: Any) -> Body:
        """A FinetuneJob over `inputs`; `spec` replaces parts of its spec."""
        parts: Body = {
            "storage": {
                "uri": f"{self.place.root}/jobs",
                "endpoint": self.place.endpoint,
                "credentialsSecretRef": {"name": SECRET},
            },
            "inputModel": {"modelPath": self.inputs.base},
            "dataConfigs": [data("train", self.inputs.train)],
            "systems": [
                {
                    "name": "small",
                    "resources": {
                        "requests": {"cpu": "250m", "memory": "512Mi"},
                        "limits": {"cpu": "1", "memory": "4Gi"},
                    },
                }
            ],
            "passes": passes,
            "engine": {"host": "small"},
        }
        return {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FinetuneJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**parts, **spec},
        }

    def whole_job(self, name: str) -> Body:
        """The emotion example as the tests have it: LoRA, merge, int4, and both models asked."""
        return self.job(
            name,
            [training(), MERGE, BUILD],
            dataConfigs=[data("train", self.inputs.train), data("test", self.inputs.test)],
            evaluators=[{"name": "tones", "metrics": [METRIC]}],
            engine={"host": "small", "evaluator": "tones"},
        )

    def path(self, collection: str, name: str = "") -> str:
        """The address of a collection, or of an object of it, in this namespace."""
        return collection.format(namespace=self.namespace) + (f"/{name}" if name else "")

    def apply(self, job: Body, **query: str) -> str:
        """Create the job; its name."""
        self.place.api.create(self.path(FINETUNE_JOBS), job, **query)
        return str(job["metadata"]["name"])

    def status(self, name: str) -> Status:
        found = self.place.api.get(self.path(FINETUNE_JOBS, name))
        judge(found)
        return Status.model_validate(found.get("status") or {})

    def ended(self, name: str, seconds: float) -> Status:
        """The job's status once it is final."""

        def look() -> Status | None:
            status = self.status(name)
            return status if ended(status) is not None else None

        return wait_for(lambda: f"{name} to end, last: {self.status(name).message}\n{self.logs(name)}", look, seconds)

    def succeeded(self, name: str, seconds: float = 240) -> Status:
        """The job's status once it is final; it must be a good one."""
        status = self.ended(name, seconds)
        assert ended(status), f"{status.message}\n{self.logs(name)}"
        return status

    def jobs_of(self, name: str) -> list[Body]:
        """The batch/v1 Jobs of the job, all that there ever were: none is deleted while the job lives."""
        found: list[Body] = self.place.api.get(self.path(JOBS), labelSelector=f"finetune.dev/job={name}")["items"]
        return found

    def stages_of_jobs(self, name: str) -> list[str]:
        """The stages that Jobs were made for, sorted; one that is there twice was made twice."""
        return sorted(job["metadata"]["labels"]["finetune.dev/stage"] for job in self.jobs_of(name))

    def pods_of(self, name: str) -> list[Body]:
        found: list[Body] = self.place.api.get(self.path(PODS), labelSelector=f"finetune.dev/job={name}")["items"]
        return found

    def logs(self, name: str) -> str:
        """The end of every pod's log, for a test that failed."""
        parts = []
        for pod in self.pods_of(name):
            answer = self.place.api.request("GET", f"{self.path(PODS, pod['metadata']['name'])}/log", tailLines="30")
            parts.append(f"--- {pod['metadata']['name']} ({pod['status'].get('phase')})\n{answer.text}")
        return "\n".join(parts)

    def manifest(self, artifact: ArtifactStatus) -> Manifest:
        return Manifest.model_validate(json.loads(self.place.bucket.read(artifact.manifest)))
