"""What is known of the architectures that are trained, by model_type of config.json."""

from __future__ import annotations

_SPLIT_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# The attention projections. Phi-4 calls itself phi3.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "phi3": ("o_proj", "qkv_proj"),
    "llama": _SPLIT_ATTENTION,
    "mistral": _SPLIT_ATTENTION,
    "qwen2": _SPLIT_ATTENTION,
    "qwen3": _SPLIT_ATTENTION,
    "gemma": _SPLIT_ATTENTION,
    "gemma2": _SPLIT_ATTENTION,
    "gemma3_text": _SPLIT_ATTENTION,
}
