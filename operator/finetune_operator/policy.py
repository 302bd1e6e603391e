"""FinetunePolicies: which hold for a namespace, and what they make of a job's spec. Pure.

Of several policies each must allow what a job asks for, so the strictest wins (`policy_rules`). Where one value is
needed (a default, a system, a label), that of the first policy by name counts, so that all replicas agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from finetune_api.job import JobSpec
from finetune_api.policy import LabelSelector, LabelSelectorRequirement, PodOverlay, PolicyDefaults, PolicySpec
from finetune_api.schema_problems import schema_problems
from finetune_api.system import System, SystemTemplate
from finetune_operator.settings import Settings

Value = TypeVar("Value")


@dataclass(frozen=True)
class Policy:
    """A FinetunePolicy. One that cannot be read has `problem` instead of `spec`, and allows nothing."""

    name: str
    selector: LabelSelector
    spec: PolicySpec | None
    problem: str = ""


def read_policy(body: Mapping[str, Any]) -> Policy:
    """`body`, whatever it holds. Where even its selector cannot be read, it holds for every namespace."""
    name, raw = str(body["metadata"]["name"]), body.get("spec")
    if not isinstance(raw, Mapping):
        return Policy(name, LabelSelector(), None, "it has no spec")
    try:
        spec = PolicySpec.model_validate(raw, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        return Policy(name, _selector(raw), None, str(schema_problems(error, PolicySpec, raw, "spec")[0]))
    return Policy(name, spec.namespace_selector, spec)


def _selector(raw: Mapping[str, Any]) -> LabelSelector:
    try:
        return LabelSelector.model_validate(
            raw.get("namespaceSelector") or {}, strict=True, by_alias=True, by_name=False
        )
    except ValidationError:
        return LabelSelector()


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether an object with these labels is selected."""
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(_meets(requirement, labels) for requirement in selector.match_expressions)


def _meets(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    match requirement.operator:
        case "In":
            return labels.get(requirement.key) in requirement.values
        case "NotIn":
            return labels.get(requirement.key) not in requirement.values
        case "Exists":
            return requirement.key in labels
        case "DoesNotExist":
            return requirement.key not in labels


@dataclass(frozen=True)
class Tenancy:
    """The policies that hold for a job's namespace, sorted by name; none: the safe defaults alone."""

    policies: tuple[Policy, ...] = ()

    def specs(self) -> Iterator[tuple[str, PolicySpec]]:
        """Name and content of those that can be read."""
        return ((policy.name, policy.spec) for policy in self.policies if policy.spec is not None)

    def system(self, name: str) -> SystemTemplate | None:
        """The platform's system of this name."""
        return next((item for _, spec in self.specs() for item in spec.systems if item.name == name), None)

    def systems(self) -> list[str]:
        """The names of all systems that the platform offers."""
        return sorted({item.name for _, spec in self.specs() for item in spec.systems})

    def resolved(self, spec: JobSpec) -> JobSpec:
        """`spec` with the platform's systems in place of references, and its defaults where the job is silent.

        A reference that leads nowhere becomes a system without settings; `policy_rules` speaks of it.
        """
        defaults = self.defaults()
        changes: dict[str, Any] = {"systems": [self._resolved(system) for system in spec.systems]}
        for field in ("queue_name", "max_attempts", "active_deadline_seconds", "max_queue_seconds"):
            default = getattr(defaults, field)
            if default is not None and field not in spec.model_fields_set:
                changes[field] = default
        return spec.model_copy(update=changes)

    def _resolved(self, system: System) -> System:
        if system.system_ref is None:
            return system
        found = self.system(system.system_ref)
        return System.model_validate({**found.wire(), "name": system.name}) if found else System(name=system.name)

    def settings(self, settings: Settings) -> Settings:
        """The operator's settings with the images that the platform wants instead of its own."""
        defaults = self.defaults()
        return replace(
            settings,
            trainer_image=defaults.image or settings.trainer_image,
            light_image=defaults.light_image or settings.light_image or defaults.image or "",
        )

    def defaults(self) -> PolicyDefaults:
        """Each default of the first policy that has it."""
        found: dict[str, Any] = {}
        for _, spec in self.specs():
            found = {**spec.defaults.wire(), **found}
        return PolicyDefaults.model_validate(found)

    def max_running(self) -> tuple[int, str] | None:
        """How many of the namespace's jobs may run at once, and the policy that says so: the strictest one."""
        limits = [
            (spec.limits.max_running_jobs, name)
            for name, spec in self.specs()
            if spec.limits.max_running_jobs is not None
        ]
        return min(limits, default=None)

    def overlay(self) -> PodOverlay | None:
        """What all policies together add to pods; None where that is nothing."""
        overlays = [spec.pods for _, spec in self.specs()]
        merged = PodOverlay(
            image_pull_secrets=_by_name(item for each in overlays for item in each.image_pull_secrets),
            env=_by_name(item for each in overlays for item in each.env),
            ca_bundle=next((each.ca_bundle for each in overlays if each.ca_bundle), None),
            labels=_merged(each.labels for each in overlays),
            annotations=_merged(each.annotations for each in overlays),
            model_cache=next((each.model_cache for each in overlays if each.model_cache), None),
            gpu_resource_name=next((each.gpu_resource_name for each in overlays if each.gpu_resource_name), None),
        )
        return None if merged == PodOverlay() else merged


def tenancy(policies: Iterable[Policy], labels: Mapping[str, str]) -> Tenancy:
    """Those of `policies` that select a namespace with these labels."""
    chosen = (policy for policy in policies if selects(policy.selector, labels))
    return Tenancy(tuple(sorted(chosen, key=lambda policy: policy.name)))


def _by_name(items: Iterable[Any]) -> list[Any]:
    found: dict[str, Any] = {}
    for item in items:
        found.setdefault(item.name, item)
    return list(found.values())


def _merged(maps: Iterable[Mapping[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in maps:
        found = {**each, **found}
    return found
