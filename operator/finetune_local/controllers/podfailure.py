"""podFailurePolicy: what the failure of one pod means for its Job.

https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_local.client import Object


@dataclass(frozen=True)
class Verdict:
    """`counts`: the failure counts towards backoffLimit. `message`: why the Job fails by it, where it does."""

    counts: bool = True
    message: str | None = None


def judge(policy: Object | None, pod: Object) -> Verdict:
    """The verdict of the first rule that matches the failed `pod`; without one, the failure counts."""
    for index, rule in enumerate((policy or {}).get("rules", [])):
        cause = _cause(rule, pod)
        if cause is None:
            continue
        action = rule["action"]
        if action == "FailJob":
            return Verdict(message=f"{cause} matching FailJob rule at index {index}")
        return Verdict(counts=action != "Ignore")
    return Verdict()


def _cause(rule: Object, pod: Object) -> str | None:
    """What in `pod` the rule matches, in Kubernetes' own words."""
    metadata, status = pod["metadata"], pod.get("status", {})
    name = f"{metadata['namespace']}/{metadata['name']}"
    if rule.get("onExitCodes"):
        for container, code in _failures(status):
            if _matches(rule["onExitCodes"], container, code):
                return f"Container {container} for pod {name} failed with exit code {code}"
        return None
    for pattern in rule.get("onPodConditions") or []:
        for condition in status.get("conditions", []):
            wanted = (pattern["type"], pattern.get("status", "True"))
            if (condition["type"], condition["status"]) == wanted:
                return f"Pod {name} has condition {condition['type']}"
    return None


def _failures(status: Object) -> Iterator[tuple[str, int]]:
    """(container, exit code) of every container that ended with another code than 0."""
    for field in ("containerStatuses", "initContainerStatuses"):
        for container in status.get(field, []):
            terminated = container.get("state", {}).get("terminated")
            if terminated and terminated["exitCode"] != 0:
                yield container["name"], terminated["exitCode"]


def _matches(requirement: Object, container: str, code: int) -> bool:
    if requirement.get("containerName") not in (None, container):
        return False
    return (code in requirement["values"]) == (requirement["operator"] == "In")
