"""Phi-3's wide projections computed in parts, for layers that are compiled.

Phi-3 holds queries, keys and values in one matrix, and gate and up in another. The gradient of taking such a product
apart writes it together again, element by element, which took 6 % of a step. Products with the matrix's parts give
the same numbers, and their gradients go where they belong. Other architectures have the parts as matrices of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import (
    Phi3Attention,
    Phi3MLP,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


def apply(model: torch.nn.Module) -> None:
    """Has each of Phi-3's modules in `model` whose projection can be split compute with its parts."""
    for module in model.modules():
        if type(module) is Phi3MLP and splittable(module.gate_up_proj):
            module.__class__ = SplitMLP
        elif type(module) is Phi3Attention and splittable(module.qkv_proj):
            module.__class__ = SplitAttention


def splittable(linear: torch.nn.Module) -> bool:
    """Whether `parts` computes what `linear` does: a plain matrix, beside it at most one plain adapter."""
    if not isinstance(linear, peft.tuners.lora.LoraLayer):
        return type(linear) is torch.nn.Linear and linear.bias is None
    adapters = list(linear.active_adapters)
    return (
        type(linear.base_layer) is torch.nn.Linear
        and linear.base_layer.bias is None
        and len(adapters) == 1
        and adapters[0] in linear.lora_A
        and not linear.merged
        and not linear.lora_variant
        and linear.lora_B[adapters[0]].bias is None
    )


def parts(linear: Any, inputs: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """What `linear` makes of `inputs`, [..., in], as its outputs' consecutive parts, each [..., size]."""
    adapted = isinstance(linear, peft.tuners.lora.LoraLayer)
    base = linear.base_layer if adapted else linear
    outputs = [torch.nn.functional.linear(inputs, weight) for weight in base.weight.split(sizes)]
    if not adapted:
        return outputs
    name = linear.active_adapters[0]
    low = linear.lora_A[name](linear.lora_dropout[name](inputs))
    scaling, weights = linear.scaling[name], linear.lora_B[name].weight.split(sizes)
    return [
        output + torch.nn.functional.linear(low, weight) * scaling
        for output, weight in zip(outputs, weights, strict=True)
    ]


class SplitMLP(Phi3MLP):
    """Phi-3's MLP, gate and up apart."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """As Phi3MLP's."""
        size = self.config.intermediate_size
        gate, up = parts(self.gate_up_proj, hidden_states, [size, size])
        down: torch.Tensor = self.down_proj(up * self.activation_fn(gate))
        return down


class SplitAttention(Phi3Attention):
    """Phi-3's attention, queries, keys and values apart; for training, where nothing is cached."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As Phi3Attention's."""
        if past_key_values is not None:
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
        shape = hidden_states.shape[:-1]
        keys = self.num_key_value_heads * self.head_dim
        sizes = [self.config.num_attention_heads * self.head_dim, keys, keys]
        query, key, value = (
            part.view(*shape, -1, self.head_dim).transpose(1, 2) for part in parts(self.qkv_proj, hidden_states, sizes)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=getattr(self.config, "sliding_window", None),
            **kwargs,
        )
        return self.o_proj(output.reshape(*shape, -1)), weights
