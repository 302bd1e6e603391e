"""The least memory that a training needs on each GPU, from what config.json says: below it, nothing helps.

A lower bound, so that what is refused could never have run: activations, fragments and a library's own memory are left
out, weights are counted as often as the fewest that the files can hold, and logits as the fused loss holds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from finetune_api.lora import ALL_LINEAR, LoraConfig, QLoraConfig
from finetune_api.model import LoadKwargs
from finetune_api.problems import problem
from finetune_api.quantity import amount
from finetune_api.stage import Reason
from finetune_api.system import SystemTemplate
from finetune_trainer.architectures import DEFAULT_TARGETS
from finetune_trainer.errors import bad_input

# What GPU feature discovery, which comes with NVIDIA's operator, says of a node: MiB of each GPU, and its name.
MEMORY_LABEL, PRODUCT_LABEL = "nvidia.com/gpu.memory", "nvidia.com/gpu.product"
_GIB, _MIB = 1 << 30, 1 << 20
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes that an optimizer keeps for each parameter; paged ones may keep theirs on the host.
_STATE_BYTES = {"adamw_torch": 8, "adamw_torch_fused": 8, "adamw_8bit": 2, "lion_8bit": 1, "lion_32bit": 4}
# A block of 64 weights has a scale of four bytes, or of one where the scales are quantized too.
_FOUR_BIT = {False: 0.5 + 4 / 64, True: 0.5 + 1 / 64}
Shapes = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Needed:
    """Bytes on each GPU, at the least."""

    weights: int
    adapter: int
    optimizer: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.adapter + self.optimizer + self.logits

    def __str__(self) -> str:
        parts = " + ".join(f"{getattr(self, part.name) / _GIB:.1f} {part.name}" for part in fields(self))
        return f"{parts} = {self.total / _GIB:.1f} GiB"


@dataclass(frozen=True)
class Decoder:
    """A decoder's size: the linear modules of a layer by name, as (in, out), and what is around the layers."""

    layers: int
    linear: Shapes
    hidden: int
    vocabulary: int
    tied: bool

    @property
    def in_layers(self) -> int:
        """Weights of all layers' linear modules."""
        return self.layers * sum(inner * outer for inner, outer in self.linear.values())

    @property
    def around(self) -> int:
        """Weights of embedding and output layer."""
        return self.hidden * self.vocabulary * (1 if self.tied else 2)


def decoder(config: Mapping[str, Any]) -> Decoder | None:
    """The size that a model's config.json tells; None for an architecture whose layers are not known here."""
    kind, hidden, inner = config.get("model_type"), config.get("hidden_size"), config.get("intermediate_size")
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    vocabulary = config.get("vocab_size")
    sizes = (hidden, inner, layers, heads, vocabulary)
    if kind not in DEFAULT_TARGETS or not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    head = config.get("head_dim") or hidden // heads
    queries, keys = head * heads, head * (config.get("num_key_value_heads") or heads)
    if kind == "phi3":
        linear = {"qkv_proj": (hidden, queries + 2 * keys), "gate_up_proj": (hidden, 2 * inner)}
    else:
        linear = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
        linear |= {"gate_proj": (hidden, inner), "up_proj": (hidden, inner)}
    linear |= {"o_proj": (queries, hidden), "down_proj": (inner, hidden)}
    tied = bool(config.get("tie_word_embeddings", kind.startswith("gemma")))
    return Decoder(layers, linear, hidden, vocabulary, tied)


def needed(model: Decoder, kind: str, config: LoraConfig, load: LoadKwargs, longest: int, ranks: int) -> Needed:
    """What each of `ranks` GPUs holds while `config` (of the architecture `kind`) trains on samples of `longest`."""
    size = _BYTES[config.torch_dtype or load.torch_dtype or "bfloat16"]
    layer = _FOUR_BIT[config.double_quant] if isinstance(config, QLoraConfig) else size
    shared = ranks if config.sharding == "fsdp" else 1
    learned = model.layers * sum(
        _rank(config, name) * sum(model.linear[name]) for name in _targets(model, kind, config) if name in model.linear
    )
    samples = 1 if config.training_args.auto_batch_size else config.training_args.per_device_train_batch_size
    return Needed(
        weights=int((model.in_layers * layer + model.around * size) / shared),
        adapter=learned * 8,  # the weights, float32, and their gradients
        optimizer=learned * _STATE_BYTES.get(config.training_args.optim, 0),
        logits=samples * longest * min(model.vocabulary, model.hidden) * size,
    )


def _targets(model: Decoder, kind: str, config: LoraConfig) -> tuple[str, ...]:
    wanted = config.target_modules or DEFAULT_TARGETS[kind]
    return tuple(model.linear) if list(wanted) == [ALL_LINEAR] else tuple(wanted)


def _rank(config: LoraConfig, name: str) -> int:
    """The least rank that a module of this name has: patterns may mean some layers' only."""
    return min([config.r, *config.rank_pattern.values()])


def memory_of(system: SystemTemplate, load: LoadKwargs) -> int | None:
    """Bytes of each GPU of `system` that may be used, as its nodeSelector and maxMemory say; None where neither does.

    A name such as NVIDIA-A100-SXM4-40GB counts too, with a little more than it says: what is sold as 80 GB has 79.6
    to 80 GiB.
    """
    if not system.gpus():
        return None
    bound = load.max_memory.gpu if load.max_memory else None
    known = [] if bound is None else [int(amount(bound))]
    labels = system.node_selector
    named = re.search(r"-(\d+)GB\b", labels.get(PRODUCT_LABEL, ""))
    if labels.get(MEMORY_LABEL, "").isdecimal():
        known.append(int(labels[MEMORY_LABEL]) * _MIB)
    elif named:
        known.append(int(named[1]) * _GIB)
    return min(known, default=None)


def require_room(
    model: Mapping[str, Any], load: LoadKwargs, config: LoraConfig, system: SystemTemplate, longest: int, path: str
) -> str:
    """What the training that `config` describes needs on `system` at the least, in words; empty where nobody knows.

    `model` is its config.json, `longest` the tokens of its longest sample, `path` that of the pass's config. Raises
    StageFailure (OutOfMemory) where a GPU of the system, as its nodeSelector names it, has less.
    """
    size, there = decoder(model), memory_of(system, load)
    if size is None:
        return ""
    ranks = system.world_size()
    least = needed(size, model["model_type"], config, load, longest, ranks)
    if there is None or least.total <= there:
        return str(least)
    message = f"at least {least} are needed on each GPU, which has {there / _GIB:.1f} GiB"
    found = problem(path, None, message, _remedy(config, ranks))
    raise bad_input(Reason.OUT_OF_MEMORY, found)


def _remedy(config: LoraConfig, ranks: int) -> str:
    ways = [] if isinstance(config, QLoraConfig) else ["use QLoRA"]
    if config.sharding != "fsdp":
        ways.append("set sharding: fsdp" if ranks > 1 else "set sharding: fsdp on a system with several GPUs")
    words = ", ".join([*ways, "or name a larger GPU"])
    return f"{words[0].upper()}{words[1:]}."
