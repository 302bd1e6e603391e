"""A frozen base model of which each rank holds a part: loaded, quantized and sharded layer by layer.

FSDP2 (torch's `fully_shard`; Zhao et al. 2023, arXiv:2304.11277) gathers a layer's weights when the layer computes and
lets them go after it. Adapters are small and stay whole on every rank, so that they are trained, saved and resumed as
without sharding. No rank ever holds more of the base than its part and one layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import torch
from accelerate import init_empty_weights
from bitsandbytes.nn import Linear4bit, Params4bit
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_api.lora import QLoraConfig
from finetune_api.model import LoadKwargs
from finetune_trainer.memory import bound_memory
from finetune_trainer.model_folder import tensor_files
from finetune_trainer.models import unloadable
from finetune_trainer.quantization import keep_trainable_on_cpu
from finetune_trainer.tensor_file import TensorFile
from finetune_trainer.training.world import World


def load_sharded(
    folder: Path,
    load: LoadKwargs,
    *,
    device: torch.device,
    dtype: torch.dtype,
    world: World,
    four_bit: QLoraConfig | None = None,
    compute: torch.dtype | None = None,
) -> PreTrainedModel:
    """The model in `folder`, every weight frozen, each layer's shared out among the ranks of `world`.

    What is in no layer (embedding, last norm, output layer) is whole until `shard_rest`. With `four_bit` the layers'
    linear modules are quantized as it says, and computed in `compute`. Raises StageFailure (ModelInvalid) where a
    weight is not in the files under its own name and shape.
    """
    bound_memory(load, device)
    model = _skeleton(folder, load, dtype)
    if four_bit:
        _make_four_bit(model, four_bit, compute or dtype)
    files = tensor_files(folder)
    mesh = init_device_mesh(device.type, (world.size,))
    opened: dict[Path, TensorFile] = {}
    filled: set[str] = set()
    for prefix, layer in _layers(model):
        _fill(layer, prefix, files, opened, device, dtype, folder)
        filled |= {f"{prefix}.{name}" for name, _ in layer.named_parameters()}
        fully_shard(layer, mesh=mesh)
    model.tie_weights()
    _fill(model, "", files, opened, device, dtype, folder, but=filled)
    model.tie_weights()
    for buffer_owner in model.modules():
        for name, buffer in list(buffer_owner.named_buffers(recurse=False)):
            setattr(buffer_owner, name, buffer.to(device))
    keep_trainable_on_cpu(model)
    model.requires_grad_(False)
    return model.eval()


def shard_rest(model: torch.nn.Module, device: torch.device, world: World) -> None:
    """Shares out what is in no layer; the parameters that learn stay whole on every rank."""
    mesh = init_device_mesh(device.type, (world.size,))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    fully_shard(model, mesh=mesh, ignored_params=trained)


def _skeleton(folder: Path, load: LoadKwargs, dtype: torch.dtype) -> PreTrainedModel:
    """The model without weights; its buffers, which no file has, are computed."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=load.trust_remote_code)
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation=load.attn_implementation,
            trust_remote_code=load.trust_remote_code,
        )


def _layers(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer))


def _make_four_bit(model: PreTrainedModel, config: QLoraConfig, compute: torch.dtype) -> None:
    """Puts Linear4bit in place of each linear module but the output layer, as transformers does."""
    head = model.get_output_embeddings()
    linear = [(name, module) for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    for name, module in linear:
        if module is head:
            continue
        parent, _, last = name.rpartition(".")
        quantized = Linear4bit(
            module.in_features,
            module.out_features,
            module.bias is not None,
            compute_dtype=compute,
            compress_statistics=config.double_quant,
            quant_type=config.quant_type,
            device="meta",
        )
        setattr(model.get_submodule(parent), last, quantized)


def _fill(
    module: torch.nn.Module,
    prefix: str,
    files: Mapping[str, Path],
    opened: dict[Path, TensorFile],
    device: torch.device,
    dtype: torch.dtype,
    folder: Path,
    but: AbstractSet[str] = frozenset(),
) -> None:
    """Reads the weights of `module`, one at a time, onto `device`; what is tied to one that is there stays so."""
    for name, parameter in list(module.named_parameters()):
        full = f"{prefix}.{name}" if prefix else name
        if full in but:
            continue
        if full not in files:
            raise unloadable(folder, f"sharded loading needs {full}, which is not in its files under this name")
        file = opened.setdefault(files[full], TensorFile(files[full]))
        owner = module.get_submodule(name.rpartition(".")[0])
        shape = (owner.out_features, owner.in_features) if isinstance(parameter, Params4bit) else parameter.shape
        if file.dtype(full) is None or file.shape(full) != tuple(shape):
            raise unloadable(folder, f"{full} has the shape {list(file.shape(full))}; config.json means {list(shape)}")
        _put(owner, name.rpartition(".")[2], file.read(full).to(dtype), device)


def _put(owner: torch.nn.Module, name: str, tensor: torch.Tensor, device: torch.device) -> None:
    if isinstance(owner, Linear4bit) and name == "weight":
        given = owner.weight
        parameter: torch.nn.Parameter = Params4bit(
            tensor,
            requires_grad=False,
            compress_statistics=given.compress_statistics,
            quant_type=given.quant_type,
            module=owner,
        ).to(device)
    else:
        parameter = torch.nn.Parameter(tensor.to(device), requires_grad=False)
    setattr(owner, name, parameter)
