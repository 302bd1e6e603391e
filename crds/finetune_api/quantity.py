"""Kubernetes quantities: `2`, `500m`, `16Gi`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import PlainValidator

from finetune_api.base import Quantity

# Amounts of resources are never negative, so the sign that Kubernetes' grammar has is left out.
PATTERN = r"^([0-9]+([.][0-9]*)?|[.][0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,2})?$"
_QUANTITY = re.compile(PATTERN)
_FACTORS = {
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("num", start=-3)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}
_LARGEST = 2**53


def checked(value: Any) -> str | int:
    """`value` if it is a quantity that is not negative; raises ValueError."""
    if isinstance(value, str) and len(value) <= 32 and _QUANTITY.fullmatch(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return value
    raise ValueError("not an amount; write it like 500m, 2 or 16Gi")


QuantityValue = Annotated[str | int, Quantity(), PlainValidator(checked)]


def amount(value: str | int) -> Decimal:
    """The number that a quantity stands for; raises ValueError where it is none."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is no quantity")
    number, suffix = match[1], match[3] or ""
    if suffix in _FACTORS:
        return Decimal(number) * _FACTORS[suffix]
    return Decimal(number + suffix)
