"""MergeAdapterWeights: the adapter added to the base model at full precision, one tensor at a time.

An adapter that was trained over a 4-bit base goes onto the full-precision weights too: merging into quantized ones
would lose about an eighth of every weight. `baseWeights: dequantized` takes the values that the 4-bit base had.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from finetune_api.passes import MergeConfig
from finetune_api.problems import problem
from finetune_api.stage import ExitCode, Reason
from finetune_trainer import four_bit_base
from finetune_trainer.context import PassOutput, StageContext
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.lora_weights import LoraWeights, read_lora
from finetune_trainer.model_folder import INDEX, SINGLE, copy_companions, tensor_files
from finetune_trainer.reporting.card import NAME as CARD
from finetune_trainer.reporting.card import stage_card
from finetune_trainer.tensor_file import TensorFile

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_UNTIED = "model-untied.safetensors"
Change = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Merge:
    """What becomes of each tensor of the base: `weights` are added, over what `base` makes of it."""

    weights: LoraWeights
    base: Change

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The merged tensor of this name. Raises StageFailure where it is NaN or infinite."""
        whole = self.weights.whole.get(name)
        update = self.weights.updates.get(name.removesuffix(".weight"))
        merged = self.base(name, tensor) if whole is None else whole.to(tensor.dtype)
        if update is not None:
            merged = update.added_to(merged)
        if not torch.isfinite(merged).all():
            dtype = str(merged.dtype).removeprefix("torch.")
            message = f"{name} is NaN or infinite in {dtype} after the merge: the adapter does not fit the base."
            raise StageFailure(Reason.MODEL_INVALID, message, exit_code=ExitCode.RESULT_REFUSED)
        return merged


def run(context: StageContext) -> PassOutput:
    """Writes the merged model, in the base's own layout and types, to `context.output`."""
    config = MergeConfig.model_validate(context.document.config)
    base, source = context.input_model()
    context.report.progress(activity="merging")
    files = tensor_files(base)
    if not files:
        message = "no weights in the safetensors format"
        remedy = "Convert them: pickled weights (*.bin) can run code and are not read."
        raise bad_input(Reason.MODEL_INVALID, problem("spec.inputModel.modelPath", source.model_path, message, remedy))
    adapter = context.inputs["adapter"]
    quantized = _four_bit_base(context, config, adapter)
    weights = read_lora(adapter)
    copy_companions(base, context.output, remote_code=source.load_kwargs.trust_remote_code)
    tied = _is_tied(base, files)
    misfit = weights.beyond or first_misfit(weights, files, tied=tied)
    if misfit:
        context.report.log(f"merging in memory with peft, as {misfit} is more than a plain update of one tensor")
        merged = _merge_in_memory(context, quantized)
    else:
        _merge_files(context, Merge(weights, quantized.dequantized if quantized else _as_it_is), files, quantized)
        if tied:
            _untie(context, weights, files)
        merged = len(weights.updates)
    (context.output / CARD).write_text(stage_card(context, "Merged model", {}), encoding="utf-8")
    context.report.log(f"{merged} modules merged, {len(weights.whole)} tensors replaced")
    return PassOutput({"merged_modules": float(merged)})


def _as_it_is(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _four_bit_base(context: StageContext, config: MergeConfig, adapter: Path) -> four_bit_base.FourBitBase | None:
    """The 4-bit base whose values are wanted; None for the original ones."""
    if config.base_weights == "original":
        return None
    found = four_bit_base.read(adapter)
    if found is None:
        path = f"spec.passes[name={context.document.stage}].config.baseWeights"
        message = "the adapter was not trained over a 4-bit base, or not by this trainer"
        raise bad_input(Reason.UNSUPPORTED, problem(path, config.base_weights, message, "Use original."))
    return found


def _is_tied(base: Path, files: Mapping[str, Path]) -> bool:
    """Whether the output layer is the embedding: config.json says so, or says nothing and there is no such tensor."""
    config = json.loads((base / "config.json").read_text())
    return bool(config.get("tie_word_embeddings", _HEAD not in files)) and _HEAD not in files


def first_misfit(weights: LoraWeights, files: Mapping[str, Path], *, tied: bool = False) -> str:
    """The first module or tensor that is not exactly one tensor of the files; empty where all are.

    transformers renames and fuses tensors of some architectures while loading. An output layer that is `tied` to
    the embedding has no tensor, and may be given one.
    """
    shapes: dict[str, tuple[int, ...]] = {f"{module}.weight": item.shape for module, item in weights.updates.items()}
    shapes |= {name: tuple(tensor.shape) for name, tensor in weights.whole.items()}
    opened: dict[Path, TensorFile] = {}
    for name, shape in shapes.items():
        found = _EMBEDDING if tied and name == _HEAD and name in weights.whole else name
        if found not in files:
            return name.removesuffix(".weight")
        file = opened.setdefault(files[found], TensorFile(files[found]))
        if file.shape(found) != shape or file.dtype(found) is None:
            return name.removesuffix(".weight")
    return ""


def _merge_files(
    context: StageContext,
    merge: Merge,
    files: Mapping[str, Path],
    quantized: four_bit_base.FourBitBase | None,
) -> None:
    """Copies the base's weight files, and changes in each copy the tensors that the merge is about."""
    changed = {f"{module}.weight" for module in merge.weights.updates} | merge.weights.whole.keys()
    changed |= {f"{module}.weight" for module in (quantized.modules if quantized else ())}
    shards = sorted(set(files.values()))
    for number, shard in enumerate(shards, start=1):
        target = context.output / shard.name
        shutil.copyfile(shard, target)
        target.chmod(0o644)
        TensorFile(target).replace(sorted(name for name in changed if files.get(name) == shard), merge)
        context.report.progress(activity="merging", step=number, total=len(shards))
    index = shards[0].with_name(INDEX)
    if index.is_file():
        shutil.copyfile(index, context.output / INDEX)


def _untie(context: StageContext, weights: LoraWeights, files: Mapping[str, Path]) -> None:
    """Gives the output layer a tensor of its own, where the embedding or it was trained whole and they differ now."""
    if not weights.whole.keys() & {_EMBEDDING, _HEAD}:
        return
    original = TensorFile(files[_EMBEDDING]).read(_EMBEDDING)
    head = weights.whole.get(_HEAD, original).to(original.dtype)
    if torch.equal(head, weights.whole.get(_EMBEDDING, original).to(original.dtype)):
        return
    save_file({_HEAD: head.contiguous()}, context.output / _UNTIED, metadata={"format": "pt"})
    names = {name: path.name for name, path in files.items()} | {_HEAD: _UNTIED}
    size = sum(TensorFile(context.output / name).size() for name in set(names.values()))
    index = {"metadata": {"total_size": size}, "weight_map": names}
    if SINGLE in names.values():
        # A file of this name is read alone, whatever an index says.
        (context.output / SINGLE).rename(context.output / "model-base.safetensors")
        index["weight_map"] = {k: "model-base.safetensors" if v == SINGLE else v for k, v in names.items()}
    (context.output / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    say_untied(context.output)
    context.report.log("the output layer is no longer the embedding: it has weights of its own now")


def say_untied(folder: Path) -> None:
    """Has config.json in `folder` say that the output layer has weights of its own."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"tie_word_embeddings": False}
    path.write_text(json.dumps(config, indent=2) + "\n")


def _merge_in_memory(context: StageContext, quantized: four_bit_base.FourBitBase | None) -> int:
    """peft's own merge of the whole model, for what shards cannot express; gives the number of merged modules."""
    from peft import PeftModel  # noqa: PLC0415  (seconds of imports that the usual way does without)
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415

    from finetune_trainer.models import load_model  # noqa: PLC0415

    base, source = context.input_model()
    load = source.load_kwargs.model_copy(update={"torch_dtype": None})  # the files' own
    model = load_model(base, load, device=torch.device("cpu"))
    if quantized:
        for name in quantized.modules:
            weight = model.get_submodule(name).weight
            weight.data = quantized.dequantized(f"{name}.weight", weight.data)
    adapted = PeftModel.from_pretrained(model, context.inputs["adapter"])
    merged = sum(isinstance(module, BaseTunerLayer) for module in adapted.modules())
    plain: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    head, embedding = plain.get_output_embeddings(), plain.get_input_embeddings()
    untied = not torch.equal(head.weight, embedding.weight)
    if untied:
        plain.config.tie_word_embeddings = False
    original = (context.output / "config.json").read_text()
    plain.save_pretrained(context.output)
    (context.output / "config.json").write_text(original)
    if untied:
        say_untied(context.output)
    return merged
