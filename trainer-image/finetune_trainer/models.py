"""Models in Hugging Face's layout, loaded by transformers: for training, as a reference, and for evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from finetune_api.model import LoadKwargs
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.memory import bound_memory

MODEL_PATH = "spec.inputModel.modelPath"


def best_device() -> torch.device:
    """This process's GPU where there is one (LOCAL_RANK says which of several), else the CPU."""
    number = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")


def dtype_named(name: str) -> torch.dtype:
    """The torch dtype that a spec calls `name` (float32, float16, bfloat16)."""
    return getattr(torch, name)


def load_model(
    folder: Path,
    load: LoadKwargs,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    quantization: Any = None,
) -> PreTrainedModel:
    """The causal language model in `folder`, in evaluation mode, every weight frozen.

    `dtype` None means `load.torch_dtype`, or else that of the files. `quantization` is a configuration of
    transformers (BitsAndBytesConfig). Weights are read from safetensors only: pickles run code.
    Raises StageFailure: Unsupported where the image lacks the attention implementation; ModelInvalid, also where
    weights are missing, which transformers would draw at random.
    """
    transformers_logging.disable_progress_bar()
    bound_memory(load, device)
    attention = _attention(load, device)
    wanted = dtype or (dtype_named(load.torch_dtype) if load.torch_dtype else "auto")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=wanted,
            device_map={"": device},
            quantization_config=quantization,
            attn_implementation=attention,
            trust_remote_code=load.trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise unloadable(folder, f"transformers cannot load it: {_first_line(error)}") from error
    _require_every_weight(folder, info)
    model.requires_grad_(False)
    return model.eval()


def load_with_adapter(folder: Path, load: LoadKwargs, adapter: Path | None, device: torch.device) -> torch.nn.Module:
    """The model in `folder` as `load_model` gives it, with the adapter in `adapter` beside its weights if given."""
    model = load_model(folder, load, device=device)
    if adapter is None:
        return model
    from peft import PeftModel  # noqa: PLC0415  (seconds of imports that a model without adapter does without)

    return PeftModel.from_pretrained(model, adapter).eval()


def _attention(load: LoadKwargs, device: torch.device) -> str | None:
    """The attention implementation for `device`: stages of one job run with and without a GPU.

    None leaves it to transformers: sdpa where the architecture has it, else eager (Gemma 2).
    """
    wanted = load.attn_implementation
    if wanted != "flash_attention_2":
        return wanted
    if device.type != "cuda":
        return None
    if not is_flash_attn_2_available():
        path, remedy = "spec.inputModel.loadKwargs.attnImplementation", "Use sdpa, or an image that has flash-attn."
        raise bad_input(Reason.UNSUPPORTED, problem(path, wanted, "the image has no flash-attn", remedy))
    return wanted


def _require_every_weight(folder: Path, info: Mapping[str, Any]) -> None:
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise unloadable(folder, f"{len(missing)} weights are not in its files: {', '.join(missing[:3])}")
    if info["mismatched_keys"]:
        name, found, wanted = min(info["mismatched_keys"])
        raise unloadable(folder, f"{name} has the shape {list(found)}; config.json means {list(wanted)}")


def unloadable(folder: Path, message: str) -> StageFailure:
    """The failure for a model whose files do not make up a model."""
    remedy = "Use a whole folder in Hugging Face's layout: config.json, tokenizer files and *.safetensors."
    return bad_input(Reason.MODEL_INVALID, problem(MODEL_PATH, folder.name, message, remedy))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
