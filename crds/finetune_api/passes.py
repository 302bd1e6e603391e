"""`spec.passes[]`: what is done to the model, in order. One type and one config each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, Name
from finetune_api.builder import ModelBuilderConfig
from finetune_api.lora import DoraConfig, LoraConfig, QLoraConfig


class MergeConfig(Model):
    """MergeAdapterWeights: the adapter is added to the base at full precision."""

    base_weights: Literal["original", "dequantized"] = Field(
        "original",
        description="What an adapter of QLoRA is added to: the base's original weights, or the rounded values that its "
        "4-bit form had, so that the merged model is the one that was trained.",
    )


class _PassBase(Model):
    name: Name = Field(description="The pass's name, unique in the job; its stage has the same.")
    host: Name | None = Field(None, description="The system that it runs on. Default: engine.host.")
    evaluator: Name | None = Field(None, description="The evaluator that measures this pass's output model.")


class LoraPass(_PassBase):
    type: Literal["LoRA"] = Field(description="LoRA.")
    config: LoraConfig = Field(description="Parameters of LoRA.")


class QLoraPass(_PassBase):
    type: Literal["QLoRA"] = Field(description="QLoRA.")
    config: QLoraConfig = Field(description="Parameters of QLoRA.")


class DoraPass(_PassBase):
    type: Literal["DoRA"] = Field(description="DoRA.")
    config: DoraConfig = Field(description="Parameters of DoRA.")


class MergePass(_PassBase):
    type: Literal["MergeAdapterWeights"] = Field(description="MergeAdapterWeights.")
    config: MergeConfig = Field(default_factory=MergeConfig, description="Parameters of MergeAdapterWeights.")


class ModelBuilderPass(_PassBase):
    type: Literal["ModelBuilder"] = Field(description="ModelBuilder.")
    config: ModelBuilderConfig = Field(description="Parameters of ModelBuilder.")


Pass = Annotated[LoraPass | QLoraPass | DoraPass | MergePass | ModelBuilderPass, Field(discriminator="type")]
PASS_TYPES: dict[str, type[_PassBase]] = {
    "LoRA": LoraPass,
    "QLoRA": QLoraPass,
    "DoRA": DoraPass,
    "MergeAdapterWeights": MergePass,
    "ModelBuilder": ModelBuilderPass,
}
ADAPTER_PASSES = frozenset({"LoRA", "QLoRA", "DoRA"})
