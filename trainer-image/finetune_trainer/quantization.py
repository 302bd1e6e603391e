"""bitsandbytes' 4-bit weights."""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear4bit
from transformers import BitsAndBytesConfig

from finetune_api.lora import QLoraConfig
from finetune_trainer.four_bit_base import FourBitBase


def four_bit(config: QLoraConfig, compute: torch.dtype) -> BitsAndBytesConfig:
    """How transformers quantizes the base model while it loads it."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quant_type,
        bnb_4bit_use_double_quant=config.double_quant,
        bnb_4bit_compute_dtype=compute,
    )


def described(model: torch.nn.Module, config: QLoraConfig, weights: torch.dtype) -> FourBitBase:
    """What the quantized `model` was made with, for whoever merges; `weights` is the type before quantizing."""
    modules = tuple(name for name, module in model.named_modules() if isinstance(module, Linear4bit))
    return FourBitBase(config.quant_type, config.double_quant, str(weights).removeprefix("torch."), modules)


def keep_trainable_on_cpu(model: torch.nn.Module) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights for a kernel that has no gradients.

    bitsandbytes 0.50.2 does so at the first forward pass in evaluation mode on CPUs with AVX512-BF16: from then
    on gradients are silently wrong, and dequantizing gives other weights.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
