"""How a training computes on a GPU: fused kernels and compilation, where they pay. Nothing changes on a CPU.

The figures behind each choice are in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import peft
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

# Architectures (model_type of config.json) that were trained with liger-kernel and with compiled layers on a GPU.
VERIFIED_ARCHITECTURES = frozenset({"phi3"})
# Compiling takes 6 to 21 seconds and then saves a tenth of the time: about 65 seconds of work of the fastest GPU
# measured, and minutes of most others', are worth it.
COMPILE_FROM_FLOP = 3e16
_LAYER_KERNELS = ("rope", "rms_norm", "swiglu")


@dataclass(frozen=True)
class Work:
    """What is about to be trained: the facts that a choice of kernels rests on.

    `plain_head` says that the output layer is one matrix without adapter or quantization. `flop` counts the
    products with the frozen weights, forward and backward; `uniform` says that all samples are equally long.
    """

    architecture: str
    device: str
    plain_head: bool
    uniform: bool
    flop: float

    @classmethod
    def of(cls, model: peft.PeftModel, device: torch.device, lengths: Sequence[int], tokens: int) -> Work:
        """The work of training `model` on samples of `lengths` tokens, `tokens` of them over all steps."""
        base = model.get_base_model()
        return cls(
            architecture=base.config.model_type,
            device=device.type,
            plain_head=type(base.get_output_embeddings()) is torch.nn.Linear,
            uniform=len(set(lengths)) == 1,
            flop=4.0 * base.num_parameters(exclude_embeddings=True) * tokens,
        )


@dataclass(frozen=True)
class Kernels:
    """What is used, and for people why: liger-kernel's loss and its layers, or compiled layers instead."""

    fused_loss: bool
    fused_layers: bool
    compiled: bool
    reasons: tuple[str, ...]


def choose(work: Work, *, liger: bool | None = None, compiling: bool | None = None) -> Kernels:
    """The fastest way to do `work`. `liger` says whether liger-kernel is installed; None looks.

    `compiling` says whether layers are compiled where that was verified; None lets the work decide.
    """
    if work.device != "cuda":
        return Kernels(False, False, False, ("kernels: PyTorch's own, since fused ones need a GPU",))
    installed = find_spec("liger_kernel") is not None if liger is None else liger
    verified = work.architecture in VERIFIED_ARCHITECTURES
    supported = installed and verified
    pays = work.uniform and work.flop >= COMPILE_FROM_FLOP
    compiled = verified and (pays if compiling is None else compiling)
    fused_loss = supported and work.plain_head
    return Kernels(
        fused_loss=fused_loss,
        fused_layers=supported and not compiled,
        compiled=compiled,
        reasons=(
            _loss_reason(work, installed, supported),
            _layers_reason(work, supported, compiled, asked=compiling is not None),
        ),
    )


def _loss_reason(work: Work, installed: bool, supported: bool) -> str:
    if not installed:
        return "loss: transformers' own, since liger-kernel is not installed"
    if not supported:
        return f"loss: transformers' own, since liger-kernel was not verified with {work.architecture}"
    if not work.plain_head:
        return "loss: transformers' own, since the output layer has an adapter or is quantized"
    return "loss: fused with the output layer (liger-kernel), so that logits are never held at once"


def _layers_reason(work: Work, supported: bool, compiled: bool, *, asked: bool) -> str:
    if asked and work.architecture in VERIFIED_ARCHITECTURES:
        return f"layers: {'compiled' if compiled else 'not compiled'}, as extraArgs.torch_compile says"
    if compiled:
        return f"layers: compiled; equal samples, and {work.flop:.1e} FLOP of work repay the compiler's seconds"
    if work.architecture not in VERIFIED_ARCHITECTURES:
        return f"layers: PyTorch's kernels, not compiled, since neither was verified with {work.architecture}"
    why_not = f"{work.flop:.1e} FLOP of work do not repay compiling" if work.uniform else "lengths of samples differ"
    return f"layers: {'liger-kernel' if supported else 'PyTorch'}'s kernels, not compiled, since {why_not}"


def apply(model: peft.PeftModel, kernels: Kernels) -> None:
    """Has `model`, its adapters attached, compute with `kernels`; its parameters and their names stay."""
    if kernels.fused_loss or kernels.fused_layers:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance  # noqa: PLC0415  (in the GPU image only)

        layers = dict.fromkeys(_LAYER_KERNELS, kernels.fused_layers)
        _apply_liger_kernel_to_instance(
            model.get_base_model(), fused_linear_cross_entropy=kernels.fused_loss, cross_entropy=False, **layers
        )
    if kernels.compiled:
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.compile(dynamic=False)


def keep_input_type(model: peft.PeftModel) -> None:
    """Keeps peft from copying each adapter's input to float32, which autocast would take back at once."""
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.cast_input_dtype_enabled = False
