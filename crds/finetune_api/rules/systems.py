"""Rules of systems: what the API server asks of pods, said before a stage's Job is refused for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_api.job import JobSpec
from finetune_api.problems import Problem, problem
from finetune_api.quantity import amount
from finetune_api.system import Resources, System, Toleration

STANDARD = ("cpu", "memory", "ephemeral-storage")
HUGE_PAGES = "hugepages-"
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
_KEY_WORDS = "no label's key"
_VALUE_WORDS = "no label's value"


def pods_that_can_be(spec: JobSpec) -> Iterator[Problem]:
    """Amounts, labels and tolerations as a pod may have them."""
    for index, system in enumerate(spec.systems):
        path = f"spec.systems[{index}]"
        yield from _resources(system.resources, f"{path}.resources")
        yield from _node_selector(system, path)
        for place, toleration in enumerate(system.tolerations):
            yield from _toleration(toleration, f"{path}.tolerations[{place}]")


def _resources(resources: Resources, path: str) -> Iterator[Problem]:
    """Known names, whole devices, and no request above its limit."""
    for kind, amounts in (("requests", resources.requests), ("limits", resources.limits)):
        for name, value in amounts.items():
            place = f"{path}.{kind}[{name}]"
            if "/" not in name and name not in STANDARD and not name.startswith(HUGE_PAGES):
                remedy = f"Write {', '.join(STANDARD)}, or a device with its domain, such as nvidia.com/gpu."
                yield problem(place, value, "no resource of containers", remedy)
            elif "/" in name and amount(value) % 1:
                yield problem(place, value, "no whole number of devices", "Write 1, 2, …")
    for name, value in resources.requests.items():
        limit, place = resources.limits.get(name), f"{path}.requests[{name}]"
        if "/" in name or name.startswith(HUGE_PAGES):
            if limit is None or amount(limit) != amount(value):
                said = "no limit" if limit is None else f"limit {limit}"
                yield problem(place, value, f"it cannot be shared, and has {said}", "Give it under limits alone.")
        elif limit is not None and amount(value) > amount(limit):
            yield problem(place, value, f"more than its limit {limit}", "Lower the request, or raise the limit.")


def _node_selector(system: System, path: str) -> Iterator[Problem]:
    for key, value in system.node_selector.items():
        place = f"{path}.nodeSelector[{key}]"
        if not _KEY.fullmatch(key):
            yield problem(place, key, _KEY_WORDS, "Write it as kubectl get nodes --show-labels does.")
        if not _VALUE.fullmatch(value):
            yield problem(place, value, _VALUE_WORDS, "Write it as kubectl get nodes --show-labels does.")


def _toleration(toleration: Toleration, path: str) -> Iterator[Problem]:
    exists = toleration.operator == "Exists"
    if toleration.key and not _KEY.fullmatch(toleration.key):
        yield problem(f"{path}.key", toleration.key, _KEY_WORDS, "Write the taint's key.")
    if not toleration.key and not exists:
        yield problem(f"{path}.key", toleration.key, "Equal needs a key", "Write the taint's key, or operator Exists.")
    if toleration.value and exists:
        yield problem(f"{path}.value", toleration.value, "Exists has no value", "Remove it, or write operator Equal.")
    elif toleration.value and not _VALUE.fullmatch(toleration.value):
        yield problem(f"{path}.value", toleration.value, _VALUE_WORDS, "Write the taint's value.")
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        value = toleration.toleration_seconds
        yield problem(
            f"{path}.tolerationSeconds", value, "only for effect NoExecute", "Remove it, or write that effect."
        )


RULES = (pods_that_can_be,)
