"""`spec.passes[]`: what is done to the model, in order. One type and one config each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Model, Name, NoEffect
from finetune_api.model import TorchDtype

# What numpy takes as a seed.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
ModuleName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class TrainingArgs(Model):
    """The training loop. Names and meanings are those of transformers' TrainingArguments."""

    seed: Seed = Field(42, description="Seed of adapter initialisation and dropout.")
    data_seed: Seed | None = Field(
        None, description="Seed of the order of samples and of the evaluation split. Default: seed."
    )
    per_device_train_batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        1, description="Samples per device and forward pass."
    )
    per_device_eval_batch_size: Annotated[int, NoEffect(), Field(ge=1, le=4096)] = Field(
        8, description="Samples per device when evaluating."
    )
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] = Field(
        1, description="Forward passes per optimizer step."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass, to save memory."
    )
    learning_rate: Annotated[float, Field(gt=0, le=10)] = Field(2e-4, description="Peak learning rate.")
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        "constant", description="Course of the learning rate after the warm-up."
    )
    warmup_steps: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Steps in which the learning rate rises from 0. Default: by warmupRatio."
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Share of all steps in which the learning rate rises, where warmupSteps is not given.",
    )
    num_train_epochs: Annotated[float, Field(gt=0, le=10_000)] = Field(
        3.0, description="How often the data is gone through."
    )
    max_steps: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Optimizer steps; overrides numTrainEpochs. Default: by numTrainEpochs."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="Decoupled weight decay of AdamW.")
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="AdamW's decay of the first moment.")
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = Field(0.999, description="AdamW's decay of the second moment.")
    adam_epsilon: Annotated[float, Field(gt=0, lt=1)] = Field(1e-8, description="AdamW's epsilon.")
    max_grad_norm: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Gradients are scaled to this norm where theirs is greater; 0 leaves them."
    )
    optim: Literal["adamw_torch", "paged_adamw_32bit"] = Field(
        "adamw_torch", description="Optimizer. paged_adamw_32bit needs a GPU."
    )
    group_by_length: bool = Field(
        False,
        description="Make batches of samples of like length; without effect under join, whose blocks are equal.",
    )
    logging_steps: Annotated[int, NoEffect(), Field(ge=1)] = Field(
        10, description="Optimizer steps between two lines of progress."
    )
    eval_strategy: Annotated[Literal["no", "steps", "epoch"], NoEffect()] = Field(
        "no", description="When the evaluation split is measured while training. Olive: evaluation_strategy."
    )
    eval_steps: Annotated[int, NoEffect(), Field(ge=1)] | None = Field(
        None, description="Optimizer steps between two evaluations under steps. Default: loggingSteps."
    )


class LoraConfig(Model):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): a trained update of rank r beside frozen weights."""

    train_data_config: Name = Field(description="The data config to learn from.")
    eval_data_config: Name | None = Field(None, description="The data config to evaluate on while training.")
    eval_dataset_size: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Rows split off the training data for evaluation: below 1 a share, else a count; shuffled with "
        "dataSeed, equal texts kept on one side. Default: none.",
    )
    r: Annotated[int, Field(ge=1, le=4096)] = Field(64, description="Rank of the update. Olive, earlier: lora_r.")
    alpha: Annotated[float, Field(gt=0)] = Field(
        16.0, description="The update is scaled by alpha / r. Olive, earlier: lora_alpha."
    )
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Dropout before the update.")
    target_modules: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="Names of the linear modules that get an adapter. Default: the attention projections of the "
        "architecture (o_proj and qkv_proj for Phi-3).",
    )
    torch_dtype: TorchDtype | None = Field(
        None, description="Type of the frozen weights. Default: bfloat16 on a GPU, float32 on a CPU."
    )
    training_args: TrainingArgs = Field(default_factory=TrainingArgs, description="The training loop.")


class QLoraConfig(LoraConfig):
    """LoRA over a base quantized to 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

    quant_type: Literal["nf4", "fp4"] = Field("nf4", description="The 4-bit data type of the frozen weights.")
    double_quant: bool = Field(False, description="Quantize the quantization constants too.")
    compute_dtype: TorchDtype | None = Field(
        None, description="Type that the 4-bit weights are computed in. Default: torchDtype."
    )


class MergeConfig(Model):
    """MergeAdapterWeights has no parameters: the adapter is added to the base at full precision."""


class ModelBuilderConfig(Model):
    """onnxruntime-genai's model builder. Olive: ModelBuilder."""

    precision: Literal["int4", "fp32", "fp16"] = Field(
        description="Precision of the ONNX weights. fp16 needs executionProvider cuda."
    )
    execution_provider: Literal["cpu", "cuda"] = Field(
        "cpu", description="The ONNX Runtime execution provider that the model is built for."
    )
    int4_block_size: Literal[16, 32, 64, 128, 256] | None = Field(
        None, description="Weights that share a scale. Default: the builder's, 32."
    )
    int4_accuracy_level: Literal[1, 2, 3, 4] | None = Field(
        None,
        description="Least precision of int4 products: 1 fp32, 2 fp16, 3 bf16, 4 int8. Default: the builder's.",
    )
    int4_is_symmetric: bool | None = Field(None, description="Quantize without zero point. Default: the builder's.")
    int4_algo_config: Literal["default", "rtn", "k_quant", "k_quant_mixed", "k_quant_last"] | None = Field(
        None, description="Quantization algorithm. Default: the builder's."
    )
    max_perplexity_ratio: Annotated[float, Field(ge=1)] = Field(
        1.25,
        description="The ONNX model's perplexity may be this many times its source's; more is OnnxDiverged.",
    )
    min_top1_agreement: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9,
        description="Share of positions at which the ONNX model's best token is its source's, or within 0.02 of "
        "its probability there, at least; less is OnnxDiverged.",
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


class MergePass(_PassBase):
    type: Literal["MergeAdapterWeights"] = Field(description="MergeAdapterWeights.")
    config: MergeConfig = Field(default_factory=MergeConfig, description="None.")


class ModelBuilderPass(_PassBase):
    type: Literal["ModelBuilder"] = Field(description="ModelBuilder.")
    config: ModelBuilderConfig = Field(description="Parameters of ModelBuilder.")


Pass = Annotated[LoraPass | QLoraPass | MergePass | ModelBuilderPass, Field(discriminator="type")]
PASS_TYPES: dict[str, type[_PassBase]] = {
    "LoRA": LoraPass,
    "QLoRA": QLoraPass,
    "MergeAdapterWeights": MergePass,
    "ModelBuilder": ModelBuilderPass,
}
ADAPTER_PASSES = frozenset({"LoRA", "QLoRA"})
