"""Words of others, made fit for a status."""

from __future__ import annotations

import re
from typing import Any

# Angle brackets that no page takes for a tag, and half surrogate pairs that UTF-8 has no bytes for.
_MARKUP = {ord("<"): "‹", ord(">"): "›", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def plain(text: Any, limit: int) -> str:
    """`text` as one line without control characters and markup, cut to `limit` characters."""
    line = _CONTROL.sub(" ", str(text or "")[: 8 * limit]).translate(_MARKUP).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def reason_word(text: Any) -> str:
    """`text` as a condition's reason: letters and digits, a letter first."""
    return re.sub(r"[^A-Za-z0-9]", "", str(text or "")[:512]).lstrip("0123456789")[:64] or "Waiting"
