"""How a training computes on a GPU: fused kernels and compilation, where they pay. Nothing changes on a CPU.

The figures behind each choice are in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import peft
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_trainer.training import split, varlen

# Architectures (model_type of config.json) that were trained with liger-kernel and with compiled layers on a GPU.
VERIFIED_ARCHITECTURES = frozenset({"phi3", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text"})
# Compiling takes 6 to 21 seconds and then saves a tenth of the time: about 65 seconds of work of the fastest GPU
# measured, and minutes of most others', are worth it.
COMPILE_FROM_FLOP = 3e16
# Rows of any length are compiled twice, for the first and for all others: three minutes of work.
COMPILE_ANY_LENGTH_FROM_FLOP = 8e16
# PyTorch's own dropout: the compiler's draws each number with a whole round of Philox, of which four could be had.
_COMPILER: dict[str, str | int | bool | Callable[..., Any]] = {"fallback_random": True}
# liger-kernel's names; it leaves out what an architecture does not have.
_LAYER_KERNELS = ("rope", "rms_norm", "swiglu", "geglu")


@dataclass(frozen=True)
class Samples:
    """What is known of the samples: the tokens that each takes, and whether any is made of parts."""

    lengths: Sequence[int]
    parts: bool = False

    @property
    def uniform(self) -> bool:
        """Whether all are equally long."""
        return len(set(self.lengths)) == 1


@dataclass(frozen=True)
class Work:
    """What is about to be trained: the facts that a choice of kernels rests on.

    `plain_head` says that the output layer is one matrix without adapter or quantization. `flop` counts the
    products with the frozen weights, forward and backward; `uniform` says that all samples are equally long.
    `masked` says that attention would need a mask that is not just causal, and `varlen` that it need not, since the
    model's attention can be told where samples begin.
    """

    architecture: str
    device: str
    plain_head: bool
    uniform: bool
    flop: float
    masked: bool = False
    varlen: bool = False

    @classmethod
    def of(
        cls,
        model: peft.PeftModel,
        device: torch.device,
        samples: Samples,
        tokens: int,
        compute: torch.dtype | None = None,
    ) -> Work:
        """The work of training `model`, products computed in `compute`, on `samples`, `tokens` tokens in all steps."""
        base = model.get_base_model()
        window = getattr(base.config, "sliding_window", None)
        return cls(
            architecture=base.config.model_type,
            device=device.type,
            plain_head=type(base.get_output_embeddings()) is torch.nn.Linear,
            uniform=samples.uniform,
            flop=4.0 * base.num_parameters(exclude_embeddings=True) * tokens,
            masked=samples.parts or not samples.uniform or (window is not None and window < max(samples.lengths)),
            varlen=varlen.fits(base, compute),
        )


@dataclass(frozen=True)
class Kernels:
    """What is used, and for people why: liger-kernel's loss and its layers, or compiled layers instead.

    `varlen` says that samples lie side by side in one row, and attention is told where each begins.
    """

    fused_loss: bool
    fused_layers: bool
    compiled: bool
    reasons: tuple[str, ...]
    varlen: bool = False


def choose(work: Work, *, liger: bool | None = None, compiling: bool | None = None) -> Kernels:
    """The fastest way to do `work`. `liger` says whether liger-kernel is installed; None looks.

    `compiling` says whether layers are compiled where they can be; None lets the amount of work decide.
    """
    if work.device != "cuda":
        return Kernels(False, False, False, ("kernels: PyTorch's own, since fused ones need a GPU",))
    installed = find_spec("liger_kernel") is not None if liger is None else liger
    verified = work.architecture in VERIFIED_ARCHITECTURES
    supported = installed and verified
    beside = verified and work.masked and work.varlen
    repaid = work.flop >= (COMPILE_ANY_LENGTH_FROM_FLOP if beside else COMPILE_FROM_FLOP)
    compiled = verified and (work.uniform or beside) and (repaid if compiling is None else compiling)
    fused_loss = supported and work.plain_head
    return Kernels(
        fused_loss=fused_loss,
        fused_layers=supported and not compiled,
        compiled=compiled,
        varlen=beside,
        reasons=(
            _loss_reason(work, installed, supported),
            _layers_reason(work, supported, compiled, asked=compiling is not None and compiling == compiled),
            _attention_reason(work, beside),
        ),
    )


def _attention_reason(work: Work, beside: bool) -> str:
    if beside:
        return "attention: samples lie side by side without padding, and the kernel is told where each begins"
    if not work.masked:
        return "attention: PyTorch's own choice for equal samples, causal without a mask"
    if work.varlen:
        return f"attention: with a mask, since kernels without one were not verified with {work.architecture}"
    return "attention: with a mask, since the kernel without one needs bfloat16 or float16, sdpa and heads of 8 to 256"


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
        return f"layers: compiled; {work.flop:.1e} FLOP of work repay the compiler's time"
    if work.architecture not in VERIFIED_ARCHITECTURES:
        return f"layers: PyTorch's kernels, not compiled, since neither was verified with {work.architecture}"
    repaying = work.uniform or work.varlen
    why_not = f"{work.flop:.1e} FLOP of work do not repay compiling" if repaying else "lengths of samples differ"
    return f"layers: {'liger-kernel' if supported else 'PyTorch'}'s kernels, not compiled, since {why_not}"


def apply(model: peft.PeftModel, kernels: Kernels) -> None:
    """Has `model`, its adapters attached, compute with `kernels`; its parameters and their names stay."""
    if kernels.fused_loss or kernels.fused_layers:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance  # noqa: PLC0415  (in the GPU image only)

        layers = dict.fromkeys(_LAYER_KERNELS, kernels.fused_layers)
        _apply_liger_kernel_to_instance(
            model.get_base_model(), fused_linear_cross_entropy=kernels.fused_loss, cross_entropy=False, **layers
        )
    if kernels.varlen:
        varlen.use(model.get_base_model())
    if kernels.compiled:
        split.apply(model)
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                # Rows of samples side by side have any length: code for the first, and then for all others. Asked for
                # code for all at once, the compiler takes a minute, since it holds no size for fixed.
                module.compile(dynamic=None if kernels.varlen else False, options=_COMPILER)


def keep_input_type(model: peft.PeftModel) -> None:
    """Keeps peft from copying each adapter's input to float32, which autocast would take back at once."""
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.cast_input_dtype_enabled = False
