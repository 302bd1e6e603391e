"""Attention over samples that lie side by side in one row, with neither padding nor a mask: torch's varlen_attn.

A mask over packed samples has an entry for every pair of tokens and keeps torch from its fastest kernels. Here the
kernel is told where each sample begins. transformers passes those places on to whatever attention a model is set to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# transformers makes no mask for an attention that it knows no masks of.
NAME = "finetune_varlen"
# FlashAttention 2's.
_LARGEST_HEAD, _HEAD_STEP = 256, 8


def fits(model: PreTrainedModel, compute: torch.dtype | None) -> bool:
    """Whether the kernel can do the attention of `model`, whose queries, keys and values are `compute`."""
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        compute in (torch.bfloat16, torch.float16)
        and config._attn_implementation == "sdpa"
        and head <= _LARGEST_HEAD
        and head % _HEAD_STEP == 0
        and not getattr(config, "attention_dropout", 0.0)
        and getattr(config, "attn_logit_softcapping", None) is None
    )


def use(model: PreTrainedModel) -> None:
    """Has `model` compute attention with `attention`; from then on it takes batches of samples side by side only."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    model.set_attn_implementation(NAME)


def attention(  # noqa: PLR0913  (as transformers calls it)
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample, as transformers asks for it.

    `query` is [1, heads, tokens, size], `key` and `value` [1, key heads, tokens, size]; the result is
    [1, tokens, heads, size]. `cu_seq_lens_q`, [samples + 1] of int32, are the places at which samples begin, and the
    end; `max_length_q` is at least the longest sample's length. Under a `sliding_window` of n a token sees n tokens,
    itself included.
    """
    grouped = {"enable_gqa": True} if key.shape[1] != query.shape[1] else {}
    output = varlen_attn(
        *(each[0].transpose(0, 1) for each in (query, key, value)),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
        **grouped,
    )
    return output[None], None
