"""Low-rank adapters on a base model: which modules get one, and the folder that they are saved in."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path

import peft
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from finetune_api.lora import LoraConfig
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure, bad_input

_SPLIT_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# The attention projections, by model_type of config.json. Phi-4 calls itself phi3.
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


def target_modules(model: PreTrainedModel, config: LoraConfig, path: str) -> list[str]:
    """The names of the modules that get an adapter; each matches a linear module of `model`.

    `path` is that of the pass's config. Raises StageFailure (Unsupported) where the architecture has no default,
    where a name matches nothing, or where it is an output layer that shares its weight with the embedding.
    """
    path = f"{path}.targetModules"
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    architecture = model.config.model_type
    targets = config.target_modules or DEFAULT_TARGETS.get(architecture)
    if targets is None:
        message = f"the architecture {architecture} has no default targets"
        raise _unsupported(path, None, message, f"Name them; its linear modules: {', '.join(kinds)}.")
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            nearest = get_close_matches(target, kinds, n=3, cutoff=0.0)
            message = f"no linear module of {architecture} has this name"
            raise _unsupported(path, target, message, f"Nearest: {', '.join(nearest)}. All: {', '.join(kinds)}.")
    head = model.get_output_embeddings()
    tied = [name for name, module in model.named_modules() if module is head and model.config.tie_word_embeddings]
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in tied):
            message = "this model's output layer is its embedding too, so an adapter on it cannot be merged"
            raise _unsupported(path, target, message, "Leave it out.")
    return list(targets)


def _unsupported(path: str, value: str | None, message: str, remedy: str) -> StageFailure:
    return bad_input(Reason.UNSUPPORTED, problem(path, value, message, remedy))


def attach(model: PreTrainedModel, config: LoraConfig, targets: list[str]) -> peft.PeftModel:
    """`model` with new adapters of float32 on `targets`, drawn from torch's global random generator."""
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        bias="none",
    )
    return peft.get_peft_model(model, settings, autocast_adapter_dtype=True)


def save(model: peft.PeftModel, folder: Path, *, base: str, revision: str | None) -> None:
    """Writes the adapter to `folder` as peft reads it, the same bytes for the same adapter.

    `base` is the base model's URI, and `revision` the commit that it was pinned to: where the adapter belongs.
    """
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"]
    settings = config.to_dict() | {
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
    }
    listed = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    (folder / "adapter_config.json").write_text(json.dumps(listed, indent=2, sort_keys=True) + "\n")
