"""A stage's attempt → a `batch/v1` Job, and a plan → its ConfigMap."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api import keys, stage
from finetune_api.job import JobSpec
from finetune_api.policy import PodOverlay
from finetune_api.quantity import amount
from finetune_api.stage import StageDocument
from finetune_operator import labels, rendezvous
from finetune_operator.owner import Owner
from finetune_operator.plan import GPU, PLAN_KEY, Plan, PodSettings, plan_name
from finetune_operator.rendezvous import END_BY_DISRUPTION, IGNORE_DISRUPTIONS
from finetune_operator.settings import Settings

Manifest = dict[str, Any]

CONTAINER = "trainer"
RESULT_FILE = "/dev/termination-log"
SCRATCH = "/scratch"
TEMPORARY = f"{SCRATCH}/temporary"
RUN = "/var/run/finetune"
STORAGE_CREDENTIALS = f"{RUN}/storage"
HUB = f"{RUN}/hub"
SOURCES = f"{RUN}/sources"
TRACKERS = f"{RUN}/trackers"
CERTIFICATES = f"{RUN}/certificates"
# Each library that opens a connection of the trainer has its own variable for the certificates it trusts.
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE")
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
    volumes, mounts = _volumes(document, spec, settings.scratch_size, gpu=_asks_for_gpu(pod), overlay=overlay)
    container: Manifest = {
        "name": CONTAINER,
        "image": pod.image,
        # The image's entry point is the trainer; it stays in charge of what its base image needs set up.
        "args": ["run"],
        "env": _environment(pod, document, spec, together),
        "resources": _resources(pod, overlay),
        "terminationMessagePath": RESULT_FILE,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": mounts,
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
        "volumes": volumes,
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
    pod: PodSettings, document: StageDocument, spec: JobSpec, together: Mapping[str, str]
) -> list[Manifest]:
    values = {
        # Kubernetes expands $(NAME) in values and makes $$ one $; a template may hold either.
        stage.STAGE_ENV: document.model_dump_json(exclude_none=True).replace("$", "\\u0024"),
        stage.RESULT_PATH_ENV: RESULT_FILE,
        stage.SCRATCH_ENV: f"{SCRATCH}/work",
        stage.SOURCES_ENV: SOURCES,
        "HOME": f"{SCRATCH}/home",
        "TMPDIR": TEMPORARY,
        # On a busy node a thread per host core is many times slower than a thread per core the pod may use.
        "OMP_NUM_THREADS": str(_threads(pod)),
        "RAYON_NUM_THREADS": str(_threads(pod)),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        **together,
    }
    if spec.storage.credentials_secret_ref:
        values[stage.STORAGE_CREDENTIALS_ENV] = STORAGE_CREDENTIALS
    if _reads_hub(document) and spec.input_model.token_secret_ref:
        values[stage.HUB_TOKEN_ENV] = f"{HUB}/token"
    if _trackers_secret(document):
        values[stage.TRACKERS_ENV] = TRACKERS
    return [{"name": name, "value": value} for name, value in {**_of_the_platform(pod), **values}.items()]


def _of_the_platform(pod: PodSettings) -> dict[str, str]:
    """The variables of the namespace's policies, and where the certificates are that they want trusted."""
    overlay = pod.overlay or PodOverlay()
    path = f"{CERTIFICATES}/{overlay.ca_bundle.key}" if overlay.ca_bundle else None
    return {
        **{variable.name: variable.value for variable in overlay.env},
        **(dict.fromkeys(CERTIFICATE_VARIABLES, path) if path else {}),
    }


def _resources(pod: PodSettings, overlay: PodOverlay) -> Manifest:
    """The pod's resources, GPUs under the name that the cluster has for them."""
    gpu = overlay.gpu_resource_name or GPU
    return {
        kind: {gpu if name == GPU else name: amount for name, amount in amounts.items()}
        for kind, amounts in pod.resources.wire().items()
    }


def _volumes(
    document: StageDocument, spec: JobSpec, scratch_size: str, *, gpu: bool, overlay: PodOverlay
) -> tuple[list[Manifest], list[Manifest]]:
    """The volumes that this stage needs, and no others, with their mounts."""
    volumes: list[Manifest] = [{"name": "scratch", "emptyDir": {"sizeLimit": scratch_size}}]
    mounts: list[Manifest] = [{"name": "scratch", "mountPath": SCRATCH}]

    def add(name: str, path: str, source: Manifest) -> None:
        volumes.append({"name": name, **source})
        mounts.append({"name": name, "mountPath": path, "readOnly": True})

    if gpu:
        # The runtime's 64 MiB of shared memory are too few for worker processes and NCCL.
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108  (a mount, not a temporary file)
    if spec.storage.credentials_secret_ref:
        secret = spec.storage.credentials_secret_ref.name
        add("storage", STORAGE_CREDENTIALS, {"secret": {"secretName": secret, "defaultMode": 0o440}})
    bundle = overlay.ca_bundle
    if bundle:
        add("certificates", CERTIFICATES, {"configMap": {"name": bundle.name, "items": [_file(bundle.key)]}})
    token = spec.input_model.token_secret_ref
    if _reads_hub(document) and token:
        items = [{"key": token.key, "path": "token"}]
        add("hub", HUB, {"secret": {"secretName": token.name, "defaultMode": 0o440, "items": items}})
    trackers = _trackers_secret(document)
    if trackers:
        add("trackers", TRACKERS, {"secret": {"secretName": trackers, "defaultMode": 0o440}})
    for index, (kind, name) in enumerate(sorted(_mounted_sources(document, spec))):
        if kind == "pvc":
            source = {"persistentVolumeClaim": {"claimName": name, "readOnly": True}}
        else:
            source = {"configMap": {"name": name}}
        add(f"source-{index}", f"{SOURCES}/{kind}/{name}", source)
    return volumes, mounts


def _file(key: str) -> Manifest:
    return {"key": key, "path": key}


def _asks_for_gpu(pod: PodSettings) -> bool:
    return GPU in pod.resources.limits or GPU in pod.resources.requests


def _reads_hub(document: StageDocument) -> bool:
    if any(config.load_dataset_config.is_hub for config in document.data):
        return True
    model = document.input_model
    return model is not None and (model.is_hub or model.is_hub_adapter)


def _trackers_secret(document: StageDocument) -> str | None:
    """The Secret that a training stage's trackers read."""
    reference = (document.config.get("trainingArgs") or {}).get("reportToSecretRef") or {}
    name: str | None = reference.get("name")
    return name


def _mounted_sources(document: StageDocument, spec: JobSpec) -> set[tuple[str, str]]:
    """(pvc or configmap, name) of every volume that the stage's model and data lie on."""
    uris = [uri for config in document.data for uri in config.load_dataset_config.uris()]
    if document.input_model:
        uris += [document.input_model.model_path, document.input_model.adapter_path or ""]
    found: set[tuple[str, str]] = set()
    for uri in uris:
        match = re.match(r"^(pvc|configMap)://([^/]+)/", uri)
        if match:
            found.add((match[1].lower(), match[2]))
    return found


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
