"""What containers ask for: quantities, requests below limits, whole extended resources."""

from __future__ import annotations

from decimal import Decimal

from finetune_api.quantity import amount
from finetune_local.apiserver.errors import Cause, invalid_value, required
from finetune_local.apiserver.objects import Object

_STANDARD = ("cpu", "memory", "ephemeral-storage")
_QUANTITY_TEXT = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"  # the server's words
)


def resource_causes(container: Object, path: str) -> list[Cause]:
    """What is wrong with a container's `resources`."""
    resources = container.get("resources") or {}
    causes: list[Cause] = []
    found: dict[str, dict[str, Decimal]] = {}
    for kind in ("limits", "requests"):
        found[kind] = {}
        for name, value in (resources.get(kind) or {}).items():
            place = f"{path}.resources.{kind}[{name}]"
            try:
                found[kind][name] = amount(value)
            except ValueError:
                causes.append(invalid_value(place, value, _QUANTITY_TEXT))
                continue
            causes += _name_causes(name, value, found[kind][name], place)
    return causes or _bound_causes(resources, found["limits"], found["requests"], path)


def _name_causes(name: str, value: object, number: Decimal, place: str) -> list[Cause]:
    if "/" not in name:
        if name in _STANDARD or name.startswith("hugepages-"):
            return []
        return [invalid_value(place, name, "must be a standard resource for containers")]
    if number != int(number):
        return [invalid_value(place, value, "must be an integer")]
    return []


def _bound_causes(
    resources: Object, limits: dict[str, Decimal], requests: dict[str, Decimal], path: str
) -> list[Cause]:
    causes: list[Cause] = []
    for name, number in requests.items():
        place, asked = f"{path}.resources.requests", resources["requests"][name]
        whole = "/" in name or name.startswith("hugepages-")
        if name not in limits:
            if whole:
                text = "Limit must be set for non overcommitable resources"
                causes.append(required(f"{path}.resources.limits[{name}]", text))
        elif whole and number != limits[name]:
            causes.append(invalid_value(place, asked, f"must be equal to {name} limit of {resources['limits'][name]}"))
        elif number > limits[name]:
            text = f"must be less than or equal to {name} limit of {resources['limits'][name]}"
            causes.append(invalid_value(place, asked, text))
    return causes
