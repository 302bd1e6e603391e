"""A peft adapter folder read with torch and safetensors alone: which update belongs to which module."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

_PREFIX = "base_model.model."
_FACTORS = re.compile(r"(?P<module>.+)\.(lora_(?P<factor>[AB])\.weight|lora_(?P<magnitude>magnitude_vector))")
# What of a peft config means more than low-rank updates of linear weights and modules kept whole.
_BEYOND = ("lora_bias", "fan_in_fan_out", "layer_replication", "trainable_token_indices", "target_parameters")


@dataclass(frozen=True)
class Update:
    """A low-rank update: `scaling · b @ a`, with `a` [rank, in] and `b` [out, rank].

    `magnitude` [out] is DoRA's: the norm that each row of the updated weight gets (arXiv:2402.09353, equation 5).
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    magnitude: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight that it is added to: (out, in)."""
        return self.b.shape[0], self.a.shape[1]

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` with the update, in `weight`'s type; computed in float32 in peft's order, so bit-equal to it."""
        updated = weight.float() + (self.b.float() @ self.a.float()) * self.scaling
        if self.magnitude is not None:
            norm = torch.linalg.norm(updated, dim=1)
            updated = (self.magnitude.float() / norm).view(-1, 1) * updated
        return updated.to(weight.dtype)


@dataclass(frozen=True)
class LoraWeights:
    """An adapter: updates by module name in the base model, and why they are not all of it (empty: they are).

    `whole` holds, by name in the base model, the tensors of modules that were trained whole.
    """

    updates: dict[str, Update]
    whole: dict[str, torch.Tensor] = field(default_factory=dict)
    beyond: str = ""


def read_lora(folder: Path) -> LoraWeights:
    """The adapter in `folder`. `beyond` names what low-rank updates and modules kept whole do not cover."""
    config = json.loads((folder / "adapter_config.json").read_text())
    for option in _BEYOND:
        if config.get(option):
            return LoraWeights({}, beyond=option)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    whole: dict[str, torch.Tensor] = {}
    saved = config.get("modules_to_save") or []
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        name = key.removeprefix(_PREFIX)
        match = _FACTORS.fullmatch(name)
        if match:
            parts.setdefault(match["module"], {})[match["factor"] or "magnitude"] = tensor
        elif any(name.rpartition(".")[0].endswith(module) for module in saved):
            whole[name] = tensor
        else:
            return LoraWeights({}, beyond=name)
    updates = {
        module: Update(part["A"], part["B"], scaling(config, module), part.get("magnitude"))
        for module, part in parts.items()
    }
    return LoraWeights(updates, whole)


def scaling(config: Mapping[str, Any], module: str) -> float:
    """What peft multiplies the update of `module` by: alpha / r, or alpha / √r under rank-stabilised LoRA.

    `rank_pattern` and `alpha_pattern` override r and alpha for modules that they match (arXiv:2312.03732 for √r).
    """
    rank = _by_pattern(config.get("rank_pattern") or {}, module, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)
