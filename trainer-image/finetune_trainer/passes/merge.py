"""MergeAdapterWeights: the adapter added to the base model at full precision, one shard of weights at a time.

An adapter that was trained over a 4-bit base goes onto the full-precision weights too: merging into quantized ones
would lose about an eighth of every weight.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from finetune_api.problems import problem
from finetune_api.stage import ExitCode, Reason
from finetune_trainer.context import PassOutput, StageContext
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.lora_weights import Update, read_lora
from finetune_trainer.model_folder import INDEX, copy_companions, tensor_files
from finetune_trainer.reporting.card import NAME as CARD
from finetune_trainer.reporting.card import stage_card


def run(context: StageContext) -> PassOutput:
    """Writes the merged model, in the base's own layout and types, to `context.output`."""
    base, source = context.input_model()
    context.report.progress(activity="merging")
    files = tensor_files(base)
    if not files:
        message = "no weights in the safetensors format"
        remedy = "Convert them: pickled weights (*.bin) can run code and are not read."
        raise bad_input(Reason.MODEL_INVALID, problem("spec.inputModel.modelPath", source.model_path, message, remedy))
    weights = read_lora(context.inputs["adapter"])
    misfit = weights.beyond or first_misfit(weights.updates, files)
    if misfit:
        context.report.log(f"merging in memory with peft, as {misfit} is more than a plain update of one tensor")
        merged = _merge_in_memory(context)
    else:
        updates = {f"{module}.weight": update for module, update in weights.updates.items()}
        _merge_shards(context, updates, files)
        merged = len(updates)
    copy_companions(base, context.output, remote_code=source.load_kwargs.trust_remote_code)
    (context.output / CARD).write_text(stage_card(context, "Merged model", {}), encoding="utf-8")
    context.report.log(f"{merged} modules merged")
    return PassOutput({"merged_modules": float(merged)})


def first_misfit(updates: Mapping[str, Update], files: Mapping[str, Path]) -> str:
    """The first module whose update does not fit exactly one tensor of the files; empty where all do.

    transformers renames and fuses tensors of some architectures while loading.
    """
    for module, update in updates.items():
        name = f"{module}.weight"
        if name not in files:
            return module
        with safe_open(files[name], framework="pt") as file:
            tensor = file.get_slice(name)
            if tuple(tensor.get_shape()) != update.shape or tensor.get_dtype() not in ("F32", "F16", "BF16"):
                return module
    return ""


def _merge_shards(context: StageContext, updates: Mapping[str, Update], files: Mapping[str, Path]) -> None:
    """Copies the base's weight files, those that hold a target with its update added."""
    shards = sorted(set(files.values()))
    for number, shard in enumerate(shards, start=1):
        target = context.output / shard.name
        if any(files[name] == shard for name in updates):
            _merge_shard(shard, target, updates)
        else:
            shutil.copyfile(shard, target)
        context.report.progress(activity="merging", step=number, total=len(shards))
    index = shards[0].with_name(INDEX)
    if index.is_file():
        shutil.copyfile(index, context.output / INDEX)


def _merge_shard(source: Path, target: Path, updates: Mapping[str, Update]) -> None:
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping: keys() only)
    for name in updates.keys() & tensors.keys():
        tensors[name] = updates[name].added_to(tensors[name])
        if not torch.isfinite(tensors[name]).all():
            dtype = str(tensors[name].dtype).removeprefix("torch.")
            message = f"{name} is NaN or infinite in {dtype} after the merge: the adapter does not fit the base."
            raise StageFailure(Reason.MODEL_INVALID, message, exit_code=ExitCode.RESULT_REFUSED)
    save_file(tensors, target, metadata=metadata or {"format": "pt"})


def _merge_in_memory(context: StageContext) -> int:
    """peft's own merge of the whole model, for what shards cannot express; gives the number of merged modules."""
    from peft import PeftModel  # noqa: PLC0415  (seconds of imports that the usual way does without)
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415

    from finetune_trainer.models import load_model  # noqa: PLC0415

    base, source = context.input_model()
    load = source.load_kwargs.model_copy(update={"torch_dtype": None})  # the files' own
    model = load_model(base, load, device=torch.device("cpu"))
    adapted = PeftModel.from_pretrained(model, context.inputs["adapter"])
    merged = sum(isinstance(module, BaseTunerLayer) for module in adapted.modules())
    adapted.merge_and_unload(safe_merge=True).save_pretrained(context.output)
    return merged
