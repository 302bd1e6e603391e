"""The configs of the passes that train an adapter: LoRA, QLoRA and DoRA."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Model, Name
from finetune_api.model import TorchDtype
from finetune_api.training import TrainingArgs

ModuleName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
# Stands alone in targetModules: every linear module but the output layer.
ALL_LINEAR = "all-linear"
Rank = Annotated[int, Field(ge=1, le=4096)]


class LoraConfig(Model):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): a trained update of rank r beside frozen weights."""

    train_data_config: Name = Field(description="The data config to learn from.")
    eval_data_config: Name | None = Field(None, description="The data config to evaluate on while training.")
    eval_dataset_size: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Rows split off the training data for evaluation: below 1 a share, else a count; shuffled with "
        "dataSeed, equal texts kept on one side. Default: none.",
    )
    r: Rank = Field(64, description="Rank of the update. Olive, earlier: lora_r.")
    alpha: Annotated[float, Field(gt=0)] = Field(
        16.0, description="The update is scaled by alpha / r. Olive, earlier: lora_alpha."
    )
    use_rslora: bool = Field(
        False,
        description="Scale the update by alpha / √r instead, so that large ranks learn as fast as small ones "
        "(rank-stabilised LoRA, arXiv:2312.03732).",
    )
    rank_pattern: Annotated[dict[ModuleName, Rank], Field(max_length=64)] = Field(
        default_factory=dict,
        description="Ranks that differ from r: by the end of a module's name (layers.0.self_attn.o_proj, o_proj), "
        "which may be a regular expression; the first that matches counts.",
    )
    alpha_pattern: Annotated[dict[ModuleName, Annotated[float, Field(gt=0)]], Field(max_length=64)] = Field(
        default_factory=dict, description="Alphas that differ from alpha, by names as in rankPattern."
    )
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Dropout before the update.")
    target_modules: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="Names of the linear modules that get an adapter, or all-linear alone: all but the output layer. "
        "Default: the attention projections of the architecture (o_proj and qkv_proj for Phi-3).",
    )
    modules_to_save: Annotated[list[ModuleName], Field(min_length=1, max_length=16)] | None = Field(
        None,
        description="Names of modules that are trained whole, beside the adapter, and are kept with it (such as "
        "lm_head or embed_tokens after tokens were added). Default: none.",
    )
    torch_dtype: TorchDtype | None = Field(
        None, description="Type of the frozen weights. Default: bfloat16 on a GPU, float32 on a CPU."
    )
    sharding: Literal["none", "fsdp"] = Field(
        "none",
        description="none: every process holds the whole base model. fsdp: each of the system's processes holds a part "
        "and gathers one layer at a time (PyTorch's FSDP2), for models that do not fit one GPU; not for DoRA, and not "
        "with modulesToSave. Without effect where one process trains.",
    )
    training_args: TrainingArgs = Field(default_factory=TrainingArgs, description="The training loop.")


class QLoraConfig(LoraConfig):
    """LoRA over a base quantized to 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

    quant_type: Literal["nf4", "fp4"] = Field("nf4", description="The 4-bit data type of the frozen weights.")
    double_quant: bool = Field(False, description="Quantize the quantization constants too.")
    compute_dtype: TorchDtype | None = Field(
        None, description="Type that the 4-bit weights are computed in. Default: torchDtype."
    )


class DoraConfig(LoraConfig):
    """Weight-decomposed LoRA (Liu et al. 2024, arXiv:2402.09353): each weight's magnitude is trained beside the update.

    Parameters are LoRA's.
    """
