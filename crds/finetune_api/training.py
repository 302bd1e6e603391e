"""`spec.passes[].config.trainingArgs`: the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Model, NoEffect, SecretRef
from finetune_api.extra_args import ExtraArgs

# What numpy takes as a seed.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]

Schedule = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]
Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adafactor",
    "sgd",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
]
Tracker = Literal["tensorboard", "mlflow", "wandb"]
ArgumentName = Annotated[str, StringConstraints(max_length=64)]
ArgumentValue = Annotated[str, StringConstraints(max_length=64)]
Steps = Annotated[int, Field(ge=1, le=10**9)]


class LrSchedulerKwargs(Model):
    """Settings of a learning rate's schedule; each belongs to the schedules that its description names."""

    num_cycles: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None,
        description="Waves of cosine, cosine_with_min_lr and warmup_stable_decay, and cycles of cosine_with_restarts. "
        "Default: 0.5, one fall; under cosine_with_restarts 1.",
    )
    power: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="Power of polynomial's fall. Default: 1."
    )
    lr_end: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="Learning rate that polynomial ends with, below learningRate. Default: 1e-7."
    )
    min_lr: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="Learning rate that cosine_with_min_lr falls to. Default: by minLrRate."
    )
    min_lr_rate: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="The same, as a share of learningRate. Default: by minLr."
    )
    timescale: Steps | None = Field(
        None, description="Steps in which inverse_sqrt falls. Default: those of the warm-up, else 10000."
    )
    num_decay_steps: Steps | None = Field(
        None, description="Steps in which warmup_stable_decay falls at its end. Default: none; it needs them."
    )
    num_stable_steps: Annotated[int, Field(ge=0, le=10**9)] | None = Field(
        None,
        description="Steps in which warmup_stable_decay stays at learningRate. Default: all between warm-up and fall.",
    )
    warmup_type: Literal["linear", "cosine", "1-sqrt"] | None = Field(
        None, description="How warmup_stable_decay rises. Default: linear."
    )
    decay_type: Literal["linear", "cosine", "1-sqrt"] | None = Field(
        None, description="How warmup_stable_decay falls. Default: cosine."
    )
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of learningRate that warmup_stable_decay begins and ends with. Default: 0."
    )


# Setting → the schedules that it belongs to.
SCHEDULES_OF: dict[str, tuple[Schedule, ...]] = {
    "num_cycles": ("cosine", "cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay"),
    "power": ("polynomial",),
    "lr_end": ("polynomial",),
    "min_lr": ("cosine_with_min_lr",),
    "min_lr_rate": ("cosine_with_min_lr",),
    "timescale": ("inverse_sqrt",),
    "num_decay_steps": ("warmup_stable_decay",),
    "num_stable_steps": ("warmup_stable_decay",),
    "warmup_type": ("warmup_stable_decay",),
    "decay_type": ("warmup_stable_decay",),
    "min_lr_ratio": ("warmup_stable_decay",),
}


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
    auto_batch_size: bool = Field(
        True,
        description="On a GPU, let memory decide how many samples a forward pass takes, from one to a whole optimizer "
        "step's; also after running out of memory. The samples of a step stay those of perDeviceTrainBatchSize times "
        "gradientAccumulationSteps. transformers: auto_find_batch_size.",
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="Compute activations again in the backward pass, to save memory. Default: only where a forward "
        "pass of one sample does not fit into the GPU's memory otherwise.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=10)] = Field(2e-4, description="Peak learning rate.")
    lr_scheduler_type: Schedule = Field("constant", description="Course of the learning rate after the warm-up.")
    lr_scheduler_kwargs: LrSchedulerKwargs | None = Field(
        None, description="Settings of the schedule. Default: the schedule's own."
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
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Weight decay of what is trained, but for biases and norms; decoupled in AdamW and Lion."
    )
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="AdamW's and Lion's decay of the first moment."
    )
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.999, description="AdamW's decay of the second moment, and Lion's of its momentum."
    )
    adam_epsilon: Annotated[float, Field(gt=0, lt=1)] = Field(1e-8, description="AdamW's epsilon.")
    max_grad_norm: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Gradients are scaled to this norm where theirs is greater; 0 leaves them."
    )
    label_smoothing_factor: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Share of each target's weight that goes to all tokens alike while training. Default: none."
    )
    neftune_noise_alpha: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None,
        description="Noise on the embeddings while training, by this alpha (Jain et al. 2023, arXiv:2310.05914). "
        "Default: none.",
    )
    optim: Optimizer = Field(
        "adamw_torch",
        description="Optimizer. adamw_torch and adamw_torch_fused are one; those of 8 bits and lion_* are "
        "bitsandbytes', and paged_* need a GPU.",
    )
    group_by_length: bool = Field(
        False,
        description="Make batches of samples of like length; without effect under join, whose blocks are equal.",
    )
    logging_steps: Annotated[int, NoEffect(unless="logging_decides"), Field(ge=1)] = Field(
        10, description="Optimizer steps between two lines of progress."
    )
    logging_first_step: Annotated[bool, NoEffect()] = Field(
        False, description="Write a line of progress after the first step too."
    )
    report_to: Annotated[Annotated[list[Tracker], Field(max_length=3)] | None, NoEffect()] = Field(
        None,
        description="Trackers that loss, learning rate and other figures go to: tensorboard writes event files into "
        "the stage's output, under tensorboard; mlflow and wandb need their package in the image, and "
        "reportToSecretRef. Default: none.",
    )
    report_to_secret_ref: Annotated[SecretRef | None, NoEffect()] = Field(
        None,
        description="Secret whose keys are the trackers' variables, such as MLFLOW_TRACKING_URI or WANDB_API_KEY; "
        "only names that begin with MLFLOW_ or WANDB_ are read. Default: none.",
    )
    run_name: Annotated[Annotated[str, Field(min_length=1, max_length=128)] | None, NoEffect()] = Field(
        None, description="The run's name in mlflow and wandb. Default: namespace, job and stage."
    )
    eval_strategy: Annotated[Literal["no", "steps", "epoch"], NoEffect(unless="evaluation_decides")] = Field(
        "no", description="When the evaluation split is measured while training. Olive: evaluation_strategy."
    )
    eval_steps: Annotated[Annotated[int, Field(ge=1)] | None, NoEffect(unless="evaluation_decides")] = Field(
        None, description="Optimizer steps between two evaluations under steps. Default: loggingSteps."
    )
    load_best_model_at_end: bool = Field(
        False,
        description="Keep the adapter of the evaluation with the lowest loss, not that of the last step. Always so "
        "with earlyStoppingPatience.",
    )
    early_stopping_patience: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="Stop after so many evaluations in a row that did not lower the best loss by more than "
        "earlyStoppingThreshold. Default: never.",
    )
    early_stopping_threshold: Annotated[float, Field(ge=0, le=1000)] = Field(
        0.0, description="A loss that is lower by no more than this is no gain, under earlyStoppingPatience."
    )
    save_strategy: Annotated[Literal["no", "steps", "epoch"], NoEffect()] = Field(
        "steps",
        description="When a checkpoint goes to the store, for the next attempt to go on from; they are deleted when "
        "the stage is done. Under steps and epoch one is saved on termination too.",
    )
    save_steps: Annotated[int, NoEffect(), Field(ge=1)] = Field(
        500, description="Optimizer steps between two checkpoints under steps."
    )
    save_minutes: Annotated[float, NoEffect(), Field(gt=0, le=10_000)] = Field(
        15.0, description="Minutes after which a checkpoint is saved at the latest, unless saveStrategy is no."
    )
    save_total_limit: Annotated[int, NoEffect(), Field(ge=1, le=100)] = Field(
        2, description="Checkpoints kept; one that turns out damaged is passed over for the one before."
    )
    stall_seconds: Annotated[int, NoEffect(), Field(ge=1, le=86_400)] = Field(
        1800, description="A step that takes longer ends the attempt as stalled, with every thread's stack in the log."
    )

    extra_args: Annotated[dict[ArgumentName, ArgumentValue], Field(max_length=16)] | None = Field(
        None,
        description="Further arguments of transformers' TrainingArguments, by its names, values as text: "
        "dataloader_drop_last, dataloader_pin_memory, eval_delay, eval_on_start, full_determinism, logging_strategy, "
        "tf32, torch_compile, torch_empty_cache_steps, train_sampling_strategy (random or sequential). All others have "
        "a field of their own or no meaning here, and are refused with the reason. Default: none.",
    )

    def extra(self) -> ExtraArgs:
        """`extra_args`, read. Raises pydantic's ValidationError for a name or value that it does not take."""
        return ExtraArgs.model_validate(self.extra_args or {})

    @property
    def keeps_best(self) -> bool:
        """Whether the best adapter is kept instead of the last."""
        return self.load_best_model_at_end or self.early_stopping_patience is not None

    @property
    def evaluation_decides(self) -> bool:
        """Whether the result depends on when the evaluation split is measured."""
        return self.keeps_best

    @property
    def logging_decides(self) -> bool:
        """Whether the result depends on loggingSteps: by the evaluations that it times."""
        return self.keeps_best and self.eval_strategy == "steps" and self.eval_steps is None
