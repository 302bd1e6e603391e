"""`spec.passes[].config.trainingArgs`: the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, NoEffect

# What numpy takes as a seed.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


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
