"""Whether a folder is an adapter that the job's passes can go on from, found out from its listing and its config."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.builder import ModelBuilderConfig
from finetune_api.job import JobSpec
from finetune_api.lora import ALL_LINEAR, DoraConfig, LoraConfig
from finetune_api.model import InputModel
from finetune_api.problems import Problem, problem
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.model_check import companions
from finetune_trainer.model_files import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_trainer.model_source import ModelSource
from finetune_trainer.sources import SourceFile, files_digest
from finetune_trainer.tokenizer import read_json

ADAPTER_PATH = ADAPTER.fields[0]
# Field of a pass's config → peft's name for it; training goes on with what the adapter was made with.
_SAME = {
    "r": "r",
    "alpha": "lora_alpha",
    "use_rslora": "use_rslora",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}
# What of a peft config passes do not train; MergeAdapterWeights alone knows it.
_BEYOND = ("layer_replication", "trainable_token_indices", "target_parameters", "layers_to_transform", "lora_bias")


@dataclass(frozen=True)
class CheckedAdapter:
    """An adapter that was looked at: the digest of its files, those, and its adapter_config.json."""

    digest: str
    files: list[SourceFile]
    config: dict[str, Any]


def check_adapter(spec: JobSpec, source: ModelSource) -> CheckedAdapter:
    """Looks at the adapter's listing and its config.

    Raises StageFailure: ModelNotFound, ModelInvalid naming what is missing, or Unsupported naming every setting of a
    training pass that is not the adapter's.
    """
    model, names = spec.input_model, source.names()
    if not names:
        remedy = f"Name the folder that holds {ADAPTER_CONFIG}."
        raise bad_input(Reason.MODEL_NOT_FOUND, _of(model, "there is nothing", remedy))
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if name not in names:
            pickled = "adapter_model.bin" in names and name == ADAPTER_WEIGHTS
            said = "its weights are a pickle, which can run code when loaded" if pickled else f"no {name} in it"
            remedy = "Save it again with peft's save_pretrained, and name that folder."
            raise bad_input(Reason.MODEL_INVALID, _of(model, said, remedy))
    config = read_json(source.fetch(companions(source)) / ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise bad_input(Reason.UNSUPPORTED, _of(model, f"it is of peft's type {kind}", "Use an adapter of type LORA."))
    problems = [found for index in range(len(spec.passes)) for found in _differences(spec, index, config)]
    if problems:
        message = "; ".join(str(found) for found in problems)
        raise StageFailure(Reason.UNSUPPORTED, message, problems=problems)
    files = source.files()
    return CheckedAdapter(files_digest(files, ordered=False), files, config)


def continued(config: LoraConfig, folder: Path) -> LoraConfig:
    """`config` with the modules of the adapter in `folder`, from which its training goes on."""
    given = json.loads((folder / ADAPTER_CONFIG).read_text())
    whole = given.get("modules_to_save") or None
    return config.model_copy(update={"target_modules": list(given["target_modules"]), "modules_to_save": whole})


def _differences(spec: JobSpec, index: int, given: dict[str, Any]) -> Iterator[Problem]:
    """What a pass says otherwise than the adapter that it takes up."""
    item = spec.passes[index]
    if isinstance(item.config, ModelBuilderConfig) and item.config.adapter == "unmerged" and given.get("use_dora"):
        message, remedy = (
            "the adapter is one of DoRA, which is no node of a model",
            "Put MergeAdapterWeights before it.",
        )
        yield problem(f"spec.passes[{index}].config.adapter", "unmerged", message, remedy)
    if not isinstance(item.config, LoraConfig):
        return
    path, config = f"spec.passes[{index}]", item.config
    for name, peft_name in _SAME.items():
        wanted, there = getattr(config, name), given.get(peft_name) or type(getattr(config, name))()
        if wanted != there:
            alias = type(config).model_fields[name].alias
            yield problem(f"{path}.config.{alias}", wanted, f"the adapter's is {json.dumps(there)}", "Write that.")
    if bool(given.get("use_dora")) != isinstance(config, DoraConfig):
        kind = "DoRA" if given.get("use_dora") else "LoRA"
        yield problem(f"{path}.type", item.type, f"the adapter is one of {kind}", f"Use type {kind}.")
    for name, peft_name in (("target_modules", "target_modules"), ("modules_to_save", "modules_to_save")):
        yield from _modules(f"{path}.config", config, name, given.get(peft_name))
    for name in _BEYOND:
        if given.get(name):
            yield _of(
                spec.input_model, f"it has {name}, which no pass trains", "Merge it alone, without a training pass."
            )
    if given.get("bias", "none") != "none":
        yield _of(spec.input_model, f"it has biases ({given['bias']}), which no pass trains", "Merge it alone.")


def _modules(path: str, config: LoraConfig, name: str, there: Any) -> Iterator[Problem]:
    """A pass trains the adapter's modules: it names those, or none."""
    wanted, alias = getattr(config, name), type(config).model_fields[name].alias
    if name == "target_modules" and not isinstance(there, list):
        remedy = "Merge the adapter alone, without a training pass."
        yield problem(ADAPTER_PATH, str(there), "its target_modules are a pattern, not names", remedy)
    elif wanted is not None and wanted != [ALL_LINEAR] and sorted(wanted) != sorted(there or []):
        shown = ", ".join(there or []) or "none"
        yield problem(
            f"{path}.{alias}", ", ".join(wanted), f"the adapter's are {shown}", "Leave it out: they are kept."
        )


def _of(model: InputModel, message: str, remedy: str) -> Problem:
    return problem(ADAPTER_PATH, model.adapter_path, message, remedy)
