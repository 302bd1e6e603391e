"""A peft adapter folder read with torch and safetensors alone: which update belongs to which module."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

_PREFIX = "base_model.model."
_FACTORS = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclass(frozen=True)
class Update:
    """A low-rank update: `scaling · b @ a`, with `a` [rank, in] and `b` [out, rank]."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight that it is added to: (out, in)."""
        return self.b.shape[0], self.a.shape[1]

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` with the update, in `weight`'s type; computed in float32 in peft's order, so bit-equal to it."""
        delta = (self.b.float() @ self.a.float()) * self.scaling
        return (weight.float() + delta).to(weight.dtype)


@dataclass(frozen=True)
class LoraWeights:
    """An adapter: updates by module name in the base model, and why they are not all of it (empty: they are)."""

    updates: dict[str, Update]
    beyond: str = ""


def read_lora(folder: Path) -> LoraWeights:
    """The adapter in `folder`. `beyond` names what plain low-rank updates of weights do not cover."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    for option in ("use_dora", "lora_bias", "fan_in_fan_out", "layer_replication", "modules_to_save"):
        if config.get(option):
            return LoraWeights({}, beyond=option)
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _FACTORS.fullmatch(name.removeprefix(_PREFIX))
        if match is None:
            return LoraWeights({}, beyond=name)
        factors.setdefault(match["module"], {})[match["factor"]] = tensor
    updates = {module: Update(pair["A"], pair["B"], scaling(config, module)) for module, pair in factors.items()}
    return LoraWeights(updates)


def scaling(config: Mapping[str, Any], module: str) -> float:
    """What peft multiplies the update of `module` by: alpha / r, or alpha / √r under rank-stabilised LoRA.

    `rank_pattern` and `alpha_pattern` override r and alpha for modules that they match (arXiv:2312.03732 for √r).
    """
    rank = _by_pattern(config.get("rank_pattern") or {}, module, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)
