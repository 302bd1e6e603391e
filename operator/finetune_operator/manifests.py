"""A stage's attempt → a `batch/v1` Job, and a plan → its ConfigMap."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api import keys, stage
from finetune_api.job import JobSpec
from finetune_api.policy import PodOverlay
from finetune_api.quantity import amount
from finetune_api.stage import StageDocument
from finetune_operator import labels, rendezvous
from finetune_operator.mounts import SCRATCH, SOURCES, Mounted, mounts
from finetune_operator.owner import Owner
from finetune_operator.plan import GPU, PLAN_KEY, Plan, PodSettings, plan_name
from finetune_operator.rendezvous import END_BY_DISRUPTION, IGNORE_DISRUPTIONS
from finetune_operator.settings import Settings
from finetune_operator.sizing import scratch_limit

Manifest = dict[str, Any]

CONTAINER = labels.CONTAINER
RESULT_FILE = "/dev/termination-log"
TEMPORARY = f"{SCRATCH}/temporary"
# The group that owns mounted Secrets; the images' user is in it.
GROUP_ID = 65532


@dataclass(frozen=True)
class Work:
    """A stage as the operator runs it, whatever attempt: what makes attempts belong together."""

    stage: str
    type: str
    key: str
    pod: PodSettings
    run_id: str
    # The Job that a probe asks about: what one probe found out says nothing about a later Job.
    about: str = ""

    def identity(self, owner: Owner) -> str:
        """Equal for all attempts of the same work of the same job, and for no others."""
        content = {
            "owner": owner.uid,
            "stage": self.stage,
            "type": self.type,
            "key": self.key,
            "pod": self.pod.wire(),
            "runId": self.run_id,
            "about": self.about,
        }
        return keys.digest(content)[:16]

    def job_name(self, owner: Owner, number: int) -> str:
        """The name of try `number`: at most 60 characters, so that a pod's own suffix and an index still fit."""
        unique = keys.digest([self.identity(owner), number])[:10]
        stage_part = re.sub(r"[^a-z0-9-]", "-", self.stage.lower()).strip("-")[:20].rstrip("-")
        job_part = re.sub(r"[^a-z0-9-]", "-", self.owner_part(owner)).rstrip("-")
        return f"{job_part}-{stage_part}-{unique}"

    @staticmethod
    def owner_part(owner: Owner) -> str:
        """As much of the job's name as a Job's name has room for."""
        return owner.name[:28]


@dataclass(frozen=True)
class Attempted:
    """Which try of a stage a Job is: `number` counts all, `counted` those that count against maxAttempts."""

    number: int
    counted: int
    excluded_nodes: tuple[str, ...] = ()


def stage_job(
    owner: Owner, work: Work, document: StageDocument, attempt: Attempted, spec: JobSpec, settings: Settings
) -> Manifest:
    """The Job of one attempt: created once, never patched, without a TTL of its own."""
    names = {
        labels.MANAGED_BY: labels.OPERATOR,
        labels.JOB: owner.name,
        labels.STAGE: work.stage,
        labels.GENERATION: str(owner.generation),
        labels.IDENTITY: work.identity(owner),
        labels.TRY: str(attempt.number),
        labels.ATTEMPT: str(attempt.counted),
    }
    name, pod_names = work.job_name(owner, attempt.number), {**names, **rendezvous.pod_labels(owner, work.pod)}
    together = rendezvous.environment(owner, name, work.pod)
    overlay = work.pod.overlay or PodOverlay()
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {**names, **_queue_labels(work.pod, spec)},
            "annotations": {labels.KEY: work.key},
            "ownerReferences": [owner.reference()],
        },
        "spec": {
            "backoffLimit": 0,
            **rendezvous.job_fields(work.pod),
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": _failure_policy(work.pod),
            # A queue's own controller lets it go: without one, a Job would slip past the quota that it was meant for.
            **({"suspend": True} if spec.queue_name else {}),
            "template": {
                "metadata": {
                    "labels": {**overlay.labels, **pod_names},
                    "annotations": {**overlay.annotations, labels.KEY: work.key, **_topology(work.pod, spec)},
                },
                "spec": {
                    **_pod_spec(work.pod, document, spec, settings, together),
                    **rendezvous.pod_fields(owner, work.pod),
                    **_affinity(attempt.excluded_nodes),
                },
            },
        },
    }


def stage_objects(
    owner: Owner, work: Work, document: StageDocument, attempt: Attempted, spec: JobSpec, settings: Settings
) -> list[Manifest]:
    """All that an attempt needs, in order: where several pods run it, the Service by which they meet; its Job."""
    meeting = [rendezvous.service(owner, work.stage)] if rendezvous.nodes(work.pod) > 1 else []
    return [*meeting, stage_job(owner, work, document, attempt, spec, settings)]


def _queue_labels(pod: PodSettings, spec: JobSpec) -> dict[str, str]:
    """Kueue's labels of the Job; none where the job names no queue."""
    if not spec.queue_name:
        return {}
    priority = {labels.PRIORITY_CLASS: pod.workload_priority_class} if pod.workload_priority_class else {}
    return {labels.QUEUE: spec.queue_name, **priority}


def _topology(pod: PodSettings, spec: JobSpec) -> dict[str, str]:
    """Kueue's annotations of the pod template, by which it places the pods of one Job together."""
    if not spec.queue_name or pod.topology is None:
        return {}
    wanted = {labels.REQUIRED_TOPOLOGY: pod.topology.required, labels.PREFERRED_TOPOLOGY: pod.topology.preferred}
    return {name: value for name, value in wanted.items() if value}


def _affinity(excluded_nodes: tuple[str, ...]) -> Manifest:
    """The pod's affinity: away from nodes on which attempts failed for reasons of the node's."""
    if not excluded_nodes:
        return {}
    elsewhere = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": list(excluded_nodes)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [elsewhere]}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def _failure_policy(pod: PodSettings) -> Manifest:
    """What ends the Job at once, and what does not count."""
    disruption = END_BY_DISRUPTION if rendezvous.nodes(pod) > 1 else IGNORE_DISRUPTIONS
    exit_codes = {"containerName": CONTAINER, "operator": "NotIn", "values": [0]}
    return {"rules": [disruption, {"action": "FailJob", "onExitCodes": exit_codes}]}


def _pod_spec(
    pod: PodSettings, document: StageDocument, spec: JobSpec, settings: Settings, together: Mapping[str, str]
) -> Manifest:
    overlay = pod.overlay or PodOverlay()
    mounted = mounts(pod, document, spec, scratch_limit(pod.resources, settings.scratch_size))
    container: Manifest = {
        "name": CONTAINER,
        "image": pod.image,
        **({"imagePullPolicy": settings.image_pull_policy} if settings.image_pull_policy else {}),
        # The image's entry point is the trainer; it stays in charge of what its base image needs set up.
        "args": ["run"],
        "env": _environment(pod, document, mounted, together),
        "resources": _resources(pod, overlay),
        "terminationMessagePath": RESULT_FILE,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [item.mount() for item in mounted],
    }
    result: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.termination_grace,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": GROUP_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [item.volume() for item in mounted],
    }
    optional: Manifest = {
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [toleration.wire() for toleration in pod.tolerations],
        "priorityClassName": pod.priority_class_name,
        "serviceAccountName": pod.service_account_name,
        "runtimeClassName": pod.runtime_class_name,
        "imagePullSecrets": [secret.wire() for secret in overlay.image_pull_secrets],
    }
    return {**result, **{name: value for name, value in optional.items() if value}}


def _environment(
    pod: PodSettings, document: StageDocument, mounted: Sequence[Mounted], together: Mapping[str, str]
) -> list[Manifest]:
    overlay = pod.overlay or PodOverlay()
    values = {
        **{variable.name: variable.value for variable in overlay.env},
        # Kubernetes expands $(NAME) in values and makes $$ one $; a template may hold either.
        stage.STAGE_ENV: document.model_dump_json(exclude_none=True).replace("$", "\\u0024"),
        stage.RESULT_PATH_ENV: RESULT_FILE,
        stage.SCRATCH_ENV: f"{SCRATCH}/work",
        stage.SOURCES_ENV: SOURCES,
        "HOME": f"{SCRATCH}/home",
        # Libraries ask for it, and a user whom the cluster chose has no name in the image.
        "USER": "finetune",
        "TMPDIR": TEMPORARY,
        # On a busy node a thread per host core is many times slower than a thread per core the pod may use.
        "OMP_NUM_THREADS": str(_threads(pod)),
        "RAYON_NUM_THREADS": str(_threads(pod)),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        **together,
        **{name: value for item in mounted for name, value in item.variables.items()},
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _resources(pod: PodSettings, overlay: PodOverlay) -> Manifest:
    """The pod's resources, GPUs under the name that the cluster has for them."""
    gpu = overlay.gpu_resource_name or GPU
    return {
        kind: {gpu if name == GPU else name: amount for name, amount in amounts.items()}
        for kind, amounts in pod.resources.wire().items()
    }


def _threads(pod: PodSettings) -> int:
    """Threads for each process: its share of the pod's CPUs by limit, else by request, at least one."""
    resources = pod.resources
    cpus = int(amount(resources.limits.get("cpu", resources.requests.get("cpu", 1))))
    return max(1, cpus // (pod.processes_per_node or 1))


def plan_config_map(owner: Owner, plan: Plan) -> Manifest:
    """The plan's ConfigMap: immutable, owned, named by its content."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": plan_name(owner.name, plan),
            "namespace": owner.namespace,
            "labels": {labels.MANAGED_BY: labels.OPERATOR, labels.JOB: owner.name},
            "ownerReferences": [owner.reference()],
        },
        "immutable": True,
        "data": {PLAN_KEY: plan.text()},
    }
