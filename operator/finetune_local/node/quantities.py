"""Kubernetes quantities: `500m`, `2Gi`, `1e3`.

The kubernetes client has a parser too; importing it takes half a second, as it brings every model class.
"""

from __future__ import annotations

import re
from decimal import Decimal

BINARY = {suffix: 1024**power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
DECIMAL = {
    suffix: Decimal(10) ** power for suffix, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
}
QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([KMGTPE]i|[numkMGTPE]))?")


def parse(text: str | int | float) -> Decimal:
    """The number that `text` stands for: CPUs, bytes or pieces. Raises ValueError where it is none."""
    match = QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"quantity {text!r}: not a number with an optional suffix such as m, Ki, Mi, Gi, k, M, G")
    number, exponent, suffix = match.groups()
    if exponent:
        return Decimal(number + exponent)
    return Decimal(number) * (BINARY.get(suffix) or DECIMAL.get(suffix) or 1)
