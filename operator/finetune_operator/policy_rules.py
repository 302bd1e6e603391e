"""What FinetunePolicies forbid of a spec: each problem names policy, field, value and what is allowed. Pure.

What no policy need say: remote code and the addresses of `policy_hosts.danger` are refused unless one allows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil
from typing import Any

from pydantic import BaseModel

from finetune_api.base import SecretKeyRef, SecretRef
from finetune_api.job import JobSpec
from finetune_api.policy import PodOverlay
from finetune_api.problems import Problem, problem
from finetune_api.quantity import amount
from finetune_api.system import Resources, System
from finetune_operator.policy import Tenancy
from finetune_operator.policy_hosts import danger, host_of_url, is_listed
from finetune_operator.policy_images import parse_image, parse_repository

HUB = "https://huggingface.co"
HUB_ENDPOINT = "HF_ENDPOINT"
_CLAIM = re.compile(r"pvc://([^/]+)(/.*)?", re.DOTALL)


@dataclass(frozen=True)
class Use:
    """Something that a spec names: where, and as what it is shown and compared with the list `field` of a policy."""

    field: str
    path: str
    value: str
    shown: str


def violations(tenancy: Tenancy, spec: JobSpec, allowed_hosts: Sequence[str] = ()) -> list[Problem]:
    """All that the namespace's policies, or the safe defaults, have against `spec` as the user wrote it.

    `allowed_hosts` are those of the operator's own settings: of the dangerous ones, these may be reached.
    """
    found = [
        problem(
            "metadata.namespace",
            None,
            f"FinetunePolicy {policy.name} cannot be read, so nothing runs: {policy.problem}",
            "Have the platform team correct it.",
        )
        for policy in tenancy.policies
        if policy.spec is None
    ]
    uses = list(_uses(spec, tenancy.overlay()))
    return [
        *found,
        *_references(tenancy, spec),
        *_not_allowed(tenancy, uses),
        *_dangerous(tenancy, uses, allowed_hosts),
        *_too_much(tenancy, spec),
        *_remote_code(tenancy, spec),
    ]


# --- what a spec names


def _uses(spec: JobSpec, overlay: PodOverlay | None) -> Iterator[Use]:
    for index, system in enumerate(spec.systems):
        yield from _uses_of_system(f"spec.systems[{index}]", system)
    for path, value in _walk("spec", spec):
        if isinstance(value, SecretRef | SecretKeyRef):
            yield Use("secrets", f"{path}.name", value.name, value.name)
        elif isinstance(value, str) and (claim := _CLAIM.fullmatch(value)):
            yield Use("pvcs", path, claim[1], value)
    for index, target in enumerate(spec.publish_targets):
        yield Use("hub_hosts", f"spec.publishTargets[{index}].repoId", _hub(overlay), target.repo_id)
    storage = spec.storage
    if storage.sts_endpoint:
        yield Use("storage_hosts", "spec.storage.stsEndpoint", storage.sts_endpoint, storage.sts_endpoint)
    endpoint = storage.endpoint or f"https://s3.{storage.region or 'us-east-1'}.amazonaws.com"
    yield Use("storage_hosts", "spec.storage.endpoint", endpoint, endpoint)
    hub = _hub(overlay)
    model = spec.input_model
    if model.is_hub:
        yield Use("hub_hosts", "spec.inputModel.modelPath", hub, model.model_path)
    if model.is_hub_adapter:
        yield Use("hub_hosts", "spec.inputModel.adapterPath", hub, str(model.adapter_path))
    for index, config in enumerate(spec.data_configs):
        load = config.load_dataset_config
        if load.is_hub:
            yield Use("hub_hosts", f"spec.dataConfigs[{index}].loadDatasetConfig.dataName", hub, load.data_name)


def _hub(overlay: PodOverlay | None) -> str:
    """The hub that the namespace's pods are told of."""
    return next((item.value for item in overlay.env if item.name == HUB_ENDPOINT), HUB) if overlay else HUB


def _uses_of_system(path: str, system: System) -> Iterator[Use]:
    named = (
        ("images", "image", system.image),
        ("service_accounts", "serviceAccountName", system.service_account_name),
        ("priority_classes", "priorityClassName", system.priority_class_name),
        ("runtime_classes", "runtimeClassName", system.runtime_class_name),
    )
    for field, name, value in named:
        if value is not None and (field, value) != ("service_accounts", "default"):
            yield Use(field, f"{path}.{name}", value, value)
    if system.model_cache is not None:
        claim = system.model_cache.claim_name
        yield Use("pvcs", f"{path}.modelCache.claimName", claim, claim)
    for key in system.node_selector:
        yield Use("node_selector_keys", f"{path}.nodeSelector", key, key)
    for index, toleration in enumerate(system.tolerations):
        key = toleration.key or "*"
        yield Use("toleration_keys", f"{path}.tolerations[{index}].key", key, key)


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every object and value of a spec with its path, so that a field that is added later is not forgotten here."""
    yield path, value
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            yield from _walk(f"{path}.{info.alias or name}", getattr(value, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(f"{path}[{index}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(f"{path}[{key}]", item)


# --- what policies say of it


def _image_is_in(value: str, entries: Sequence[str]) -> bool:
    try:
        repository = parse_image(value).repository
    except ValueError:
        return False
    return any(parse_repository(entry).holds(repository) for entry in entries)


def _host_is_in(value: str, entries: Sequence[str]) -> bool:
    try:
        host = host_of_url(value)
    except ValueError:
        return False
    return is_listed(host, entries, literally=danger(host) is not None)


def _name_is_in(value: str, entries: Sequence[str]) -> bool:
    return any(fnmatchcase(value, entry) for entry in entries)


def _is_in(value: str, entries: Sequence[str]) -> bool:
    return value in entries


# A list of `allow`: what an item of it is called, and how a value is looked up.
LISTS: dict[str, tuple[str, Callable[[str, Sequence[str]], bool]]] = {
    "images": ("image", _image_is_in),
    "service_accounts": ("service account", _name_is_in),
    "priority_classes": ("priority class", _name_is_in),
    "runtime_classes": ("runtime class", _name_is_in),
    "node_selector_keys": ("label of nodes", _is_in),
    "toleration_keys": ("toleration", _is_in),
    "pvcs": ("PersistentVolumeClaim", _name_is_in),
    "secrets": ("Secret", _name_is_in),
    "storage_hosts": ("storage host", _host_is_in),
    "hub_hosts": ("model hub", _host_is_in),
}


def _not_allowed(tenancy: Tenancy, uses: Sequence[Use]) -> Iterator[Problem]:
    for name, policy in tenancy.specs():
        for use in uses:
            noun, is_in = LISTS[use.field]
            entries = getattr(policy.allow, use.field)
            if entries is not None and not is_in(use.value, entries):
                allowed = f"Allowed: {', '.join(entries)}." if entries else "It allows none."
                yield problem(use.path, use.shown, f"FinetunePolicy {name} does not allow this {noun}", allowed)


def _dangerous(tenancy: Tenancy, uses: Sequence[Use], allowed_hosts: Sequence[str]) -> Iterator[Problem]:
    """Hosts that only a list that has them letter by letter allows, and endpoints that are no plain host."""
    listed = [entry for _, policy in tenancy.specs() for entry in policy.allow.storage_hosts or ()]
    for use in uses:
        if use.field != "storage_hosts":
            continue
        try:
            host = host_of_url(use.value)
        except ValueError as error:
            yield problem(use.path, use.shown, str(error), "Write https://host:port.")
            continue
        what = danger(host)
        if what and not is_listed(host, [*listed, *allowed_hosts], literally=True):
            remedy = "Use the storage's own address, or have it listed in a FinetunePolicy's allow.storageHosts."
            yield problem(use.path, use.shown, f"{host} is {what}", remedy)


def _references(tenancy: Tenancy, spec: JobSpec) -> Iterator[Problem]:
    offered = tenancy.systems()
    for index, system in enumerate(spec.systems):
        if system.system_ref is not None and system.system_ref not in offered:
            there = f"There: {', '.join(offered)}." if offered else "There is none."
            path = f"spec.systems[{index}].systemRef"
            yield problem(
                path, system.system_ref, "no FinetunePolicy of this namespace has a system of this name", there
            )


def _too_much(tenancy: Tenancy, spec: JobSpec) -> Iterator[Problem]:
    resolved = tenancy.resolved(spec)
    for name, policy in tenancy.specs():
        limits = policy.limits
        for index, system in enumerate(resolved.systems):
            path, asked = f"spec.systems[{index}]", devices(system.resources) * system.nodes
            if limits.max_gpus is not None and asked > limits.max_gpus:
                reason = f"FinetunePolicy {name} allows a stage {limits.max_gpus} GPUs"
                yield problem(f"{path}.resources", asked, reason, "Ask for fewer.")
            if limits.max_nodes is not None and system.nodes > limits.max_nodes:
                reason = f"FinetunePolicy {name} allows a stage {limits.max_nodes} pods"
                yield problem(f"{path}.nodes", system.nodes, reason, "Ask for fewer.")


def devices(resources: Resources) -> int:
    """Extended resources that a pod asks for, together: they have a domain in their name, cpu and memory have none."""
    names = {name for name in (*resources.limits, *resources.requests) if "/" in name}
    return sum(
        ceil(max(amount(resources.limits.get(name, 0)), amount(resources.requests.get(name, 0)))) for name in names
    )


def _remote_code(tenancy: Tenancy, spec: JobSpec) -> Iterator[Problem]:
    if not spec.input_model.load_kwargs.trust_remote_code:
        return
    path, remedy = "spec.inputModel.loadKwargs.trustRemoteCode", "Remove it; built-in architectures need none."
    policies = list(tenancy.specs())
    if not policies:
        yield problem(path, "true", "remote code is refused where no FinetunePolicy allows it", remedy)
    for name, policy in policies:
        if not policy.allow_remote_code:
            yield problem(path, "true", f"FinetunePolicy {name} does not allow remote code", remedy)
