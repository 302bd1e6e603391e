"""batch/v1 Jobs and CronJobs: defaults, generated selector, validation, what may change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from finetune_local.apiserver.errors import (
    Cause,
    duplicate_value,
    invalid_value,
    required,
    too_many,
    unsupported_value,
)
from finetune_local.apiserver.objects import Object, clone, lookup
from finetune_local.apiserver.strategies.base import BuiltinStrategy, FilledStrategy
from finetune_local.apiserver.strategies.pods import default_template, template_causes

if TYPE_CHECKING:
    from finetune_local.apiserver.resources import Resource

_DEFAULT_BACKOFF_LIMIT = 6
_NO_LIMIT = 2**31 - 1
_MAX_RULES = 20
_MAX_NAME = 63
_IMMUTABLE = ("completionMode", "podFailurePolicy", "selector", "backoffLimitPerIndex", "managedBy", "successPolicy")
_NONNEGATIVE = (
    "parallelism",
    "completions",
    "backoffLimit",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
)
_STATUSES = ("False", "True", "Unknown")
_WHILE_SUSPENDED = ("nodeSelector", "tolerations", "affinity", "schedulingGates")


def default_job(spec: Object) -> None:
    """Defaults of a Job's spec, also within a CronJob."""
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", _NO_LIMIT if "backoffLimitPerIndex" in spec else _DEFAULT_BACKOFF_LIMIT)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    replacement = "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed"
    spec.setdefault("podReplacementPolicy", replacement)
    for rule in lookup(spec, "podFailurePolicy", "rules") or ():
        for pattern in rule.get("onPodConditions", ()):
            pattern.setdefault("status", "True")
    default_template(spec.setdefault("template", {}).setdefault("spec", {}))


class JobStrategy(BuiltinStrategy):
    default_propagation: ClassVar[str] = "Orphan"
    """`batch/v1` keeps the behaviour of its first days: a Job deleted without a policy orphans its pods."""

    def prepare_create(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        asked_policy = lookup(spec, "template", "spec", "restartPolicy")
        default_job(spec)
        if asked_policy is None:
            spec["template"]["spec"].pop("restartPolicy")
        obj["status"] = {}
        if not spec.setdefault("manualSelector", False):
            _generate_selector(obj)

    def prepare_update(self, new: Object, old: Object) -> None:
        default_job(new.setdefault("spec", {}))

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        spec = new["spec"]
        causes = super().validate(resource, new, old)
        if causes:
            return causes
        causes += job_causes(spec, "spec")
        causes += _host_name_causes(new)
        if len(new["metadata"]["name"]) > _MAX_NAME:
            text = f"must be no more than {_MAX_NAME} bytes"
            causes.append(invalid_value("spec.template.labels", new["metadata"]["name"], text))
        return causes + (_update_causes(new, old) if old is not None else [])


def _host_name_causes(job: Object) -> list[Cause]:
    """The host names of an Indexed Job's pods, made of its own name, that could be none."""
    spec, name = job["spec"], job["metadata"]["name"]
    if spec.get("completionMode") != "Indexed" or not spec.get("completions"):
        return []
    last = f"{name}-{spec['completions'] - 1}"
    if len(last) <= _MAX_NAME and "." not in name:
        return []
    text = f"will not able to create pod with invalid DNS label: {last}"
    return [invalid_value("metadata.name", name, text)]


class CronJobStrategy(FilledStrategy):
    first_status: ClassVar[Object | None] = {}

    def fill(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("concurrencyPolicy", "Allow")
        spec.setdefault("suspend", False)
        spec.setdefault("successfulJobsHistoryLimit", 3)
        spec.setdefault("failedJobsHistoryLimit", 1)
        template = lookup(spec, "jobTemplate", "spec", "template", "spec")
        if template is not None:
            default_template(template)


def _generate_selector(obj: Object) -> None:
    spec, metadata = obj["spec"], obj["metadata"]
    template = spec["template"].setdefault("metadata", {})
    given = dict(template.get("labels") or {})
    labels = {
        "batch.kubernetes.io/controller-uid": metadata["uid"],
        "batch.kubernetes.io/job-name": metadata["name"],
        "controller-uid": metadata["uid"],
        "job-name": metadata["name"],
    }
    template["labels"] = {**given, **labels}
    if given and not metadata.get("labels"):
        metadata["labels"] = dict(template["labels"])
    selector = spec.setdefault("selector", {}).setdefault("matchLabels", {})
    selector["batch.kubernetes.io/controller-uid"] = metadata["uid"]


def job_causes(spec: Object, path: str) -> list[Cause]:
    """What is wrong with a Job's spec beyond its types."""
    causes: list[Cause] = []
    for member in _NONNEGATIVE:
        if spec.get(member, 0) < 0:
            text = "must be greater than or equal to 0"
            causes.append(invalid_value(f"{path}.{member}", spec[member], text))
    mode = spec.get("completionMode")
    if mode not in ("NonIndexed", "Indexed"):
        causes.append(unsupported_value(f"{path}.completionMode", mode, ("NonIndexed", "Indexed")))
    if mode == "Indexed" and "completions" not in spec:
        text = "when completion mode is Indexed"
        causes.append(required(f"{path}.completions", text))
    causes += _index_causes(spec, path) + _replacement_causes(spec, path)
    template = spec["template"]["spec"]
    place = f"{path}.template.spec"
    policy = template.get("restartPolicy")
    if policy is None:
        causes.append(required(f"{place}.restartPolicy", 'valid values: "OnFailure", "Never"'))
    elif policy not in ("OnFailure", "Never"):
        causes.append(unsupported_value(f"{place}.restartPolicy", policy, ("OnFailure", "Never")))
    causes += [c for c in template_causes(template, place) if c.path != f"{place}.restartPolicy"]
    if "podFailurePolicy" in spec:
        causes += _failure_policy_causes(spec, path, policy)
    return causes


def _index_causes(spec: Object, path: str) -> list[Cause]:
    """What only an Indexed Job may have, and what belongs together there."""
    causes: list[Cause] = []
    if spec.get("completionMode") != "Indexed":
        causes += [
            invalid_value(f"{path}.{member}", spec[member], "requires indexed completion mode")
            for member in ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy")
            if member in spec
        ]
    if "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
        causes.append(required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified"))
    return causes


def _replacement_causes(spec: Object, path: str) -> list[Cause]:
    policy, place = spec.get("podReplacementPolicy"), f"{path}.podReplacementPolicy"
    supported = ("Failed",) if "podFailurePolicy" in spec else ("Failed", "TerminatingOrFailed")
    return [] if policy in supported else [unsupported_value(place, policy, supported)]


def _failure_policy_causes(spec: Object, path: str, restart_policy: str | None) -> list[Cause]:
    causes: list[Cause] = []
    if restart_policy == "OnFailure":
        text = 'only "Never" is supported when podFailurePolicy is specified'
        causes.append(invalid_value(f"{path}.template.spec.restartPolicy", restart_policy, text))
    rules = spec["podFailurePolicy"].get("rules") or []
    if len(rules) > _MAX_RULES:
        causes.append(too_many(f"{path}.podFailurePolicy.rules", len(rules), _MAX_RULES))
    containers = {
        container["name"]
        for member in ("containers", "initContainers")
        for container in spec["template"]["spec"].get(member, ())
    }
    for index, rule in enumerate(rules):
        place = f"{path}.podFailurePolicy.rules[{index}]"
        causes += _rule_causes(rule, place, containers)
        if rule.get("action") == "FailIndex" and "backoffLimitPerIndex" not in spec:
            text = "requires the backoffLimitPerIndex to be set"
            causes.append(invalid_value(f"{place}.action", "FailIndex", text))
    return causes


def _rule_causes(rule: Object, path: str, containers: set[str]) -> list[Cause]:
    causes: list[Cause] = []
    actions = ("Count", "FailIndex", "FailJob", "Ignore")
    if rule.get("action") not in actions:
        causes.append(unsupported_value(f"{path}.action", rule.get("action", ""), actions))
    codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
    if codes and conditions:
        text = "specifying both OnExitCodes and OnPodConditions is not supported"
        causes.append(invalid_value(path, rule, text))
    if not codes and not conditions:
        text = "specifying one of OnExitCodes and OnPodConditions is required"
        causes.append(invalid_value(path, rule, text))
    for index, pattern in enumerate(conditions or ()):
        if pattern.get("status") not in _STATUSES:
            place = f"{path}.onPodConditions[{index}].status"
            causes.append(unsupported_value(place, pattern.get("status"), _STATUSES))
    return causes + (_exit_code_causes(codes, f"{path}.onExitCodes", containers) if codes else [])


def _exit_code_causes(codes: Object, place: str, containers: set[str]) -> list[Cause]:
    causes: list[Cause] = []
    if codes.get("operator") not in ("In", "NotIn"):
        causes.append(unsupported_value(f"{place}.operator", codes.get("operator", ""), ("In", "NotIn")))
    values = codes.get("values") or []
    if not values:
        causes.append(invalid_value(f"{place}.values", values, "at least one value is required"))
    if codes.get("operator") == "In" and 0 in values:
        at = values.index(0)
        causes.append(invalid_value(f"{place}.values[{at}]", 0, "must not be 0 for the In operator"))
    if len(set(values)) != len(values):
        at = next(i for i, value in enumerate(values) if value in values[:i])
        causes.append(duplicate_value(f"{place}.values[{at}]", values[at]))
    elif values != sorted(values):
        causes.append(invalid_value(f"{place}.values", values, "must be ordered"))
    if codes.get("containerName", next(iter(containers), None)) not in containers:
        text = "must be one of the container or initContainer names in the pod template"
        causes.append(invalid_value(f"{place}.containerName", codes["containerName"], text))
    return causes


def _update_causes(new: Object, old: Object) -> list[Cause]:
    causes = [
        invalid_value(f"spec.{member}", new["spec"].get(member), "field is immutable")
        for member in _IMMUTABLE
        if new["spec"].get(member) != old["spec"].get(member)
    ]
    if new["spec"].get("completions") != old["spec"].get("completions") and not _elastic(new["spec"], old["spec"]):
        causes.append(invalid_value("spec.completions", new["spec"].get("completions"), "field is immutable"))
    before, after = old["spec"]["template"], new["spec"]["template"]
    if old["spec"].get("suspend") and not lookup(old, "status", "startTime"):
        before, after = _without_scheduling(before), _without_scheduling(after)
    if before != after:
        causes.append(invalid_value("spec.template", new["spec"]["template"], "field is immutable"))
    return causes


def _elastic(new: Object, old: Object) -> bool:
    """An Indexed Job may change its size, completions and parallelism together."""
    together = new.get("completions") == new.get("parallelism")
    return old.get("completionMode") == "Indexed" and together


def _without_scheduling(template: Object) -> Any:
    """A pod template less what a queue such as Kueue may set while the Job is suspended."""
    rest = clone(template)
    for member in ("labels", "annotations"):
        rest.get("metadata", {}).pop(member, None)
    for member in _WHILE_SUSPENDED:
        rest["spec"].pop(member, None)
    return rest
