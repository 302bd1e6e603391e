"""What a 4-bit base model was made with: written beside the adapter that was trained over it, read by the merge."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from finetune_trainer.model_files import FOUR_BIT_BASE

FILE = FOUR_BIT_BASE


@dataclass(frozen=True)
class FourBitBase:
    """How the base's weights were quantized, and which modules' (names in the base model)."""

    quant_type: str
    double_quant: bool
    weights_dtype: str
    modules: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Writes it to `folder`."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")

    def dequantized(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The values [out, in] that the 4-bit base had for `tensor`, in its type; itself where it was not quantized.

        A block of 64 values shares a scale (Dettmers et al. 2023, arXiv:2305.14314).
        """
        if name.removesuffix(".weight") not in self.modules:
            return tensor
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # noqa: PLC0415  (only where asked for)

        held = tensor.to(getattr(torch, self.weights_dtype)).contiguous()
        packed, state = quantize_4bit(held, quant_type=self.quant_type, compress_statistics=self.double_quant)
        return dequantize_4bit(packed, state).reshape(tensor.shape).to(tensor.dtype)


def read(folder: Path) -> FourBitBase | None:
    """The 4-bit base of the adapter in `folder`; None where it had none."""
    path = folder / FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    return FourBitBase(**(content | {"modules": tuple(content["modules"])}))
