"""A safetensors file whose tensors are replaced in place, one at a time: none but the one is ever in memory.

The format: eight bytes with the length of a JSON header (little endian), the header, then the tensors' bytes, where
the header's `data_offsets` say (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TensorFile:
    """The tensors of `path`. Types other than F32, F16 and BF16 are listed, not read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self._start = 8 + length
        self._entries = header

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self._entries[name]["shape"])

    def dtype(self, name: str) -> torch.dtype | None:
        """The tensor's type; None for one that is not read."""
        return _DTYPES.get(self._entries[name]["dtype"])

    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(end - start for start, end in (entry["data_offsets"] for entry in self._entries.values()))

    def read(self, name: str) -> torch.Tensor:
        """The tensor, a copy. Raises KeyError for a type that is not read."""
        entry = self._entries[name]
        start, end = entry["data_offsets"]
        with self._path.open("rb") as file:
            file.seek(self._start + start)
            body = bytearray(file.read(end - start))
        return torch.frombuffer(body, dtype=_DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def replace(self, names: Iterable[str], change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
        """Writes `change(name, tensor)` over each tensor of `names`; it has the tensor's shape and type."""
        with self._path.open("r+b") as file:
            for name in names:
                changed = change(name, self.read(name)).contiguous()
                if tuple(changed.shape) != self.shape(name) or changed.dtype != self.dtype(name):
                    raise ValueError(f"{name} would change its shape or type")
                file.seek(self._start + self._entries[name]["data_offsets"][0])
                file.write(changed.flatten().view(torch.uint8).numpy().data)
