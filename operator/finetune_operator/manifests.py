"""A stage's attempt → a `batch/v1` Job, and a plan → its ConfigMap."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from finetune_api import API_VERSION, KIND, keys, stage
from finetune_api.job import JobSpec
from finetune_api.policy import PodOverlay
from finetune_api.quantity import amount
from finetune_api.stage import StageDocument
from finetune_operator import labels
from finetune_operator.plan import GPU, PLAN_KEY, Plan, PodSettings, plan_name

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
class Owner:
    """The FinetuneJob that an object belongs to."""

    namespace: str
    name: str
    uid: str
    generation: int

    def reference(self) -> Manifest:
        """The ownerReference by which Kubernetes deletes the object with its job."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


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


def stage_job(
    owner: Owner,
    work: Work,
    document: StageDocument,
    *,
    number: int,
    attempt: int,
    spec: JobSpec,
    grace: int,
    scratch_size: str,
) -> Manifest:
    """The Job of one attempt: created once, never patched, without a TTL of its own.

    `number` counts all tries, `attempt` those that count against maxAttempts.
    """
    names = {
        labels.MANAGED_BY: labels.OPERATOR,
        labels.JOB: owner.name,
        labels.STAGE: work.stage,
        labels.GENERATION: str(owner.generation),
        labels.IDENTITY: work.identity(owner),
        labels.TRY: str(number),
        labels.ATTEMPT: str(attempt),
    }
    queue = {labels.QUEUE: spec.queue_name} if spec.queue_name else {}
    overlay = work.pod.overlay or PodOverlay()
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": work.job_name(owner, number),
            "namespace": owner.namespace,
            "labels": {**names, **queue},
            "annotations": {labels.KEY: work.key},
            "ownerReferences": [owner.reference()],
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": POD_FAILURE_POLICY,
            "template": {
                "metadata": {
                    "labels": {**overlay.labels, **names},
                    "annotations": {**overlay.annotations, labels.KEY: work.key},
                },
                "spec": _pod_spec(work.pod, document, spec, grace, scratch_size),
            },
        },
    }


# Evictions, preemptions and drains cost nothing; any other ending is the operator's to judge.
POD_FAILURE_POLICY: Manifest = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]},
        },
    ]
}


def _pod_spec(pod: PodSettings, document: StageDocument, spec: JobSpec, grace: int, scratch_size: str) -> Manifest:
    overlay = pod.overlay or PodOverlay()
    volumes, mounts = _volumes(document, spec, scratch_size, gpu=_asks_for_gpu(pod), overlay=overlay)
    container: Manifest = {
        "name": CONTAINER,
        "image": pod.image,
        # The image's entry point is the trainer; it stays in charge of what its base image needs set up.
        "args": ["run"],
        "env": _environment(pod, document, spec),
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
        "terminationGracePeriodSeconds": grace,
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


def _environment(pod: PodSettings, document: StageDocument, spec: JobSpec) -> list[Manifest]:
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
    return document.input_model is not None and "://" not in document.input_model.model_path


def _trackers_secret(document: StageDocument) -> str | None:
    """The Secret that a training stage's trackers read."""
    reference = (document.config.get("trainingArgs") or {}).get("reportToSecretRef") or {}
    name: str | None = reference.get("name")
    return name


def _mounted_sources(document: StageDocument, spec: JobSpec) -> set[tuple[str, str]]:
    """(pvc or configmap, name) of every volume that the stage's model and data lie on."""
    uris = [uri for config in document.data for uri in config.load_dataset_config.uris()]
    if document.input_model:
        uris.append(document.input_model.model_path)
    found: set[tuple[str, str]] = set()
    for uri in uris:
        match = re.match(r"^(pvc|configMap)://([^/]+)/", uri)
        if match:
            found.add((match[1].lower(), match[2]))
    return found


def _threads(pod: PodSettings) -> int:
    """Threads for the pod's CPUs: its limit, else its request, at least one."""
    resources = pod.resources
    return max(1, int(amount(resources.limits.get("cpu", resources.requests.get("cpu", 1)))))


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
