"""What a stage's pod has mounted, the Secrets that it needs and no others, and the variables that say where. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune_api import stage
from finetune_api.job import JobSpec
from finetune_api.policy import PodOverlay
from finetune_api.publishing import PublishTarget
from finetune_api.stage import StageDocument
from finetune_api.storage import Storage
from finetune_operator.plan import GPU, PodSettings

Manifest = dict[str, Any]

SCRATCH = "/scratch"
RUN = "/var/run/finetune"
STORAGE_CREDENTIALS = f"{RUN}/storage"
STORAGE_TOKEN = f"{RUN}/storage-token"
STORAGE_CERTIFICATES = f"{RUN}/storage-certificates"
HUB = f"{RUN}/hub"
PUBLISH = f"{RUN}/publish"
SOURCES = f"{RUN}/sources"
TRACKERS = f"{RUN}/trackers"
CERTIFICATES = f"{RUN}/certificates"
MODEL_CACHE = "/model-cache"
# Each library that opens a connection of the trainer has its own variable for the certificates it trusts.
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE")
# A token is renewed at 80 % of this; the keys that it is exchanged for last as long as the server says.
_TOKEN_SECONDS = 3600
_SECRET_MODE = 0o440


@dataclass(frozen=True)
class Mounted:
    """A volume, where the container has it, and the variables that tell the trainer."""

    name: str
    path: str
    source: Manifest
    variables: dict[str, str] = field(default_factory=dict)
    writable: bool = False

    def volume(self) -> Manifest:
        """The pod's volume."""
        return {"name": self.name, **self.source}

    def mount(self) -> Manifest:
        """The container's mount of it."""
        found: Manifest = {"name": self.name, "mountPath": self.path}
        return found if self.writable else {**found, "readOnly": True}


def mounts(pod: PodSettings, document: StageDocument, spec: JobSpec, scratch_size: str) -> list[Mounted]:
    """The volumes that this stage needs, and no others."""
    overlay = pod.overlay or PodOverlay()
    return [
        Mounted("scratch", SCRATCH, {"emptyDir": {"sizeLimit": scratch_size}}, writable=True),
        *_shared_memory(pod),
        *_storage(spec.storage),
        *_certificates(overlay),
        *_tokens(document, spec),
        *_cache(pod),
        *_sources(document),
    ]


def _shared_memory(pod: PodSettings) -> Iterator[Mounted]:
    if GPU in pod.resources.limits or GPU in pod.resources.requests:
        # The runtime's 64 MiB of shared memory are too few for worker processes and NCCL.
        source = {"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}
        yield Mounted("shm", "/dev/shm", source, writable=True)  # noqa: S108  (a mount, not a temporary file)


def _storage(storage: Storage) -> Iterator[Mounted]:
    """What the store's keys are, or are given for, and whom it is known by."""
    if storage.credentials_secret_ref:
        source = _secret(storage.credentials_secret_ref.name)
        yield Mounted("storage", STORAGE_CREDENTIALS, source, {stage.STORAGE_CREDENTIALS_ENV: STORAGE_CREDENTIALS})
    if storage.web_identity:
        token = {
            "audience": storage.web_identity.audience,
            "expirationSeconds": _TOKEN_SECONDS,
            "path": "token",
        }
        source = {"projected": {"defaultMode": _SECRET_MODE, "sources": [{"serviceAccountToken": token}]}}
        variables = {stage.STORAGE_TOKEN_ENV: f"{STORAGE_TOKEN}/token"}
        yield Mounted("storage-token", STORAGE_TOKEN, source, variables)
    bundle = storage.ca_bundle_ref
    if bundle:
        source = {"configMap": {"name": bundle.name, "items": [_file(bundle.key)]}}
        variables = {stage.STORAGE_CA_ENV: f"{STORAGE_CERTIFICATES}/{bundle.key}"}
        yield Mounted("storage-certificates", STORAGE_CERTIFICATES, source, variables)


def _certificates(overlay: PodOverlay) -> Iterator[Mounted]:
    """The certificates that the namespace's policies want trusted."""
    bundle = overlay.ca_bundle
    if bundle:
        source = {"configMap": {"name": bundle.name, "items": [_file(bundle.key)]}}
        path = f"{CERTIFICATES}/{bundle.key}"
        yield Mounted("certificates", CERTIFICATES, source, dict.fromkeys(CERTIFICATE_VARIABLES, path))


def _tokens(document: StageDocument, spec: JobSpec) -> Iterator[Mounted]:
    token = spec.input_model.token_secret_ref
    if _reads_hub(document) and token:
        yield Mounted("hub", HUB, _secret(token.name, token.key, "token"), {stage.HUB_TOKEN_ENV: f"{HUB}/token"})
    if document.type == "Publish":
        yield from _publish_tokens(spec.publish_targets)
    trackers = (document.config.get("trainingArgs") or {}).get("reportToSecretRef") or {}
    if trackers.get("name"):
        yield Mounted("trackers", TRACKERS, _secret(trackers["name"]), {stage.TRACKERS_ENV: TRACKERS})


def _publish_tokens(targets: list[PublishTarget]) -> Iterator[Mounted]:
    """The token of each target, in a folder of the target's name."""
    for index, target in enumerate(targets):
        source = _secret(target.token_secret_ref.name, target.token_secret_ref.key, "token")
        yield Mounted(f"publish-{index}", f"{PUBLISH}/{target.name}", source, {stage.PUBLISH_TOKENS_ENV: PUBLISH})


def _cache(pod: PodSettings) -> Iterator[Mounted]:
    cache = pod.model_cache
    if cache:
        source = {"persistentVolumeClaim": {"claimName": cache.claim_name}}
        variables = {stage.MODEL_CACHE_ENV: MODEL_CACHE, stage.MODEL_CACHE_BYTES_ENV: str(cache.limit())}
        yield Mounted("model-cache", MODEL_CACHE, source, variables, writable=True)


def _sources(document: StageDocument) -> Iterator[Mounted]:
    """Every volume that the stage's model and data lie on."""
    uris = [uri for config in document.data for uri in config.load_dataset_config.uris()]
    if document.input_model:
        uris += [document.input_model.model_path, document.input_model.adapter_path or ""]
    found = {match.groups() for uri in uris if (match := re.match(r"^(pvc|configMap)://([^/]+)/", uri))}
    for index, (kind, name) in enumerate(sorted((kind.lower(), name) for kind, name in found)):
        if kind == "pvc":
            source: Manifest = {"persistentVolumeClaim": {"claimName": name, "readOnly": True}}
        else:
            source = {"configMap": {"name": name}}
        yield Mounted(f"source-{index}", f"{SOURCES}/{kind}/{name}", source)


def _reads_hub(document: StageDocument) -> bool:
    if any(config.load_dataset_config.is_hub for config in document.data):
        return True
    model = document.input_model
    return model is not None and (model.is_hub or model.is_hub_adapter)


def _secret(name: str, key: str | None = None, path: str | None = None) -> Manifest:
    """A Secret, or of it the one `key`, as the file `path`."""
    found: Manifest = {"secretName": name, "defaultMode": _SECRET_MODE}
    return {"secret": {**found, "items": [{"key": key, "path": path}]} if key else found}


def _file(key: str) -> Manifest:
    return {"key": key, "path": key}
