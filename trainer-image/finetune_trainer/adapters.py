"""Low-rank adapters on a base model: which modules get one, and the folder that they are saved in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import peft
import torch
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from finetune_api.lora import ALL_LINEAR, DoraConfig, LoraConfig
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.architectures import DEFAULT_TARGETS
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.model_files import ADAPTER, ADAPTER_WEIGHTS


@dataclass(frozen=True)
class Parts:
    """The modules of a model that are trained: `targets` get an adapter, `whole` ones are trained themselves.

    `targets` are ends of names; `whole` are full names, since peft would take `norm` for every `…norm`.
    """

    targets: list[str]
    whole: list[str]

    def __str__(self) -> str:
        whole = f"; whole: {', '.join(self.whole)}" if self.whole else ""
        return f"{', '.join(self.targets)}{whole}"


def trained_parts(model: PreTrainedModel, config: LoraConfig, path: str) -> Parts:
    """What of `model` is trained; each name and pattern of `config` matches something of it.

    `path` is that of the pass's config. Raises StageFailure (Unsupported) where one does not.
    """
    targets = target_modules(model, config, path)
    modules = dict(model.named_modules())
    whole: list[str] = []
    for name in config.modules_to_save or []:
        found = {key: module for key, module in modules.items() if _is_called(key, name)}
        if not found:
            kinds = sorted({key.rpartition(".")[2] for key in modules if key})
            raise _unknown(f"{path}.modulesToSave", name, "module", model, kinds)
        if any(not weight.is_floating_point() for module in found.values() for weight in module.parameters()):
            message = "its weights are quantized to 4 bits, which cannot be trained"
            raise _unsupported(f"{path}.modulesToSave", name, message, "Leave it out, or use LoRA.")
        whole += found
    adapted = [key for key in modules if any(_is_called(key, target) for target in targets)]
    for field, patterns in (("rankPattern", config.rank_pattern), ("alphaPattern", config.alpha_pattern)):
        for pattern in patterns:
            if not any(re.match(rf"(.*\.)?({pattern})$", key) for key in adapted):
                message = "matches none of the modules that get an adapter"
                raise _unsupported(f"{path}.{field}", pattern, message, f"Those end in {', '.join(targets)}.")
    return Parts(targets, whole)


def target_modules(model: PreTrainedModel, config: LoraConfig, path: str) -> list[str]:
    """The names of the modules that get an adapter; each matches a linear module of `model`.

    `path` is that of the pass's config. Raises StageFailure (Unsupported) where the architecture has no default,
    where a name matches nothing, or where it is an output layer that shares its weight with the embedding.
    """
    path = f"{path}.targetModules"
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    architecture = model.config.model_type
    targets = config.target_modules or DEFAULT_TARGETS.get(architecture)
    if targets is None:
        message = f"the architecture {architecture} has no default targets"
        raise _unsupported(path, None, message, f"Name them; its linear modules: {', '.join(kinds)}.")
    if list(targets) == [ALL_LINEAR]:
        return sorted({name.rpartition(".")[2] for name, module in linear.items() if module is not head})
    for target in targets:
        found = [module for name, module in linear.items() if _is_called(name, target)]
        if not found:
            raise _unknown(path, target, "linear module", model, kinds)
        if model.config.tie_word_embeddings and any(module is head for module in found):
            message = "this model's output layer is its embedding too, so an adapter on it cannot be merged"
            raise _unsupported(path, target, message, "Leave it out.")
    return list(targets)


def _is_called(name: str, wanted: str) -> bool:
    """Whether the module `name` is meant by `wanted`, its end."""
    return name == wanted or name.endswith(f".{wanted}")


def _unknown(path: str, name: str, what: str, model: PreTrainedModel, kinds: Sequence[str]) -> StageFailure:
    nearest = get_close_matches(name, kinds, n=3, cutoff=0.0)
    message = f"no {what} of {model.config.model_type} has this name"
    return _unsupported(path, name, message, f"Nearest: {', '.join(nearest)}. All: {', '.join(kinds)}.")


def _unsupported(path: str, value: str | None, message: str, remedy: str) -> StageFailure:
    return bad_input(Reason.UNSUPPORTED, problem(path, value, message, remedy))


def attach(model: PreTrainedModel, config: LoraConfig, parts: Parts) -> peft.PeftModel:
    """`model` with new adapters on `parts`, drawn from torch's global random generator.

    All that is trained is float32, whatever the frozen weights are: an optimizer's small steps get lost below it.
    """
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.lora_dropout,
        target_modules=parts.targets,
        modules_to_save=parts.whole or None,
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.alpha_pattern),
        use_rslora=config.use_rslora,
        use_dora=isinstance(config, DoraConfig),
        bias="none",
    )
    adapted = peft.get_peft_model(model, settings, autocast_adapter_dtype=True)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def go_on_from(model: peft.PeftModel, folder: Path, uri: str) -> None:
    """Gives the new adapter of `model` the weights of the one in `folder`, which `uri` names in the spec.

    Raises StageFailure (ModelInvalid) where those are of other modules or shapes.
    """
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    given = load_file(folder / ADAPTER_WEIGHTS)
    shapes = {name: list(tensor.shape) for name, tensor in given.items()}
    wanted = {name: list(tensor.shape) for name, tensor in expected.items()}
    if shapes != wanted:
        name = min(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))
        message = f"{name} has the shape {shapes.get(name)}; this model and config mean {wanted.get(name)}"
        found = problem(ADAPTER.fields[0], uri, message, "Name the model that the adapter was trained on.")
        raise bad_input(Reason.MODEL_INVALID, found)
    set_peft_model_state_dict(model, given)


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
