"""`trainingArgs.extraArgs`: what else of transformers' TrainingArguments a training acts on, and why not the rest."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model

_OUTPUTS = "the stage's output goes to spec.storage, and checkpoints are found there by themselves"
_TYPES = "the pass's torchDtype and computeDtype say how numbers are held"
_HUB = "outputs go to spec.storage, not to a hub"
_RANKS = "spec.systems says how many nodes and GPUs there are; the trainer sets up its processes itself"
_KERNELS = "the trainer chooses kernels and compilation, and logs why"
_LOG = "progress is written as JSON lines; loggingSteps says how often, engine.logSeverityLevel what else is"
_ROWS = "spec.dataConfigs says what is read from the rows"
_LOADER = "samples are tokens in memory before the first step; nothing is loaded while training"
_EVALUATION = "evaluating while training measures the loss alone; spec.evaluators measure the rest"
_BEST = "the lowest evaluation loss is the best"
_OTHERS = "belongs to optimizers, schedules or services that the trainer does not have"

NOT_APPLICABLE: dict[str, str] = {
    **dict.fromkeys(("output_dir", "do_train", "do_eval", "do_predict", "resume_from_checkpoint"), _OUTPUTS),
    **dict.fromkeys(("save_on_each_node", "save_only_model", "ignore_data_skip", "enable_jit_checkpoint"), _OUTPUTS),
    "restore_callback_states_from_checkpoint": _OUTPUTS,
    **dict.fromkeys(("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"), _TYPES),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"), _HUB),
    **dict.fromkeys(("hub_always_push", "hub_revision"), _HUB),
    **dict.fromkeys(("local_rank", "use_cpu", "accelerator_config", "parallelism_config", "fsdp"), _RANKS),
    **dict.fromkeys(("fsdp_config", "deepspeed", "ddp_find_unused_parameters", "ddp_bucket_cap_mb"), _RANKS),
    **dict.fromkeys(("ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout"), _RANKS),
    "average_tokens_across_devices": "every learned token of a step weighs the same, on whichever device",
    **dict.fromkeys(("torch_compile_backend", "torch_compile_mode", "use_liger_kernel"), _KERNELS),
    **dict.fromkeys(("liger_kernel_config", "use_cache"), _KERNELS),
    **dict.fromkeys(("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm", "debug"), _LOG),
    **dict.fromkeys(("include_num_input_tokens_seen", "skip_memory_metrics"), _LOG),
    "logging_nan_inf_filter": "a loss that is no number ends the training, with advice",
    **dict.fromkeys(("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), _OTHERS),
    **dict.fromkeys(("optim_args", "optim_target_modules"), _OTHERS),
    **dict.fromkeys(("remove_unused_columns", "label_names", "length_column_name"), _ROWS),
    **dict.fromkeys(("dataloader_num_workers", "dataloader_persistent_workers"), _LOADER),
    **dict.fromkeys(("dataloader_prefetch_factor", "dataloader_multiprocessing_context"), _LOADER),
    "dataloader_in_order": _LOADER,
    **dict.fromkeys(("prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object"), _EVALUATION),
    **dict.fromkeys(("eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics"), _EVALUATION),
    **dict.fromkeys(("metric_for_best_model", "greater_is_better"), _BEST),
    "gradient_checkpointing_kwargs": "activations are computed again in the one way that works with adapters",
    "activation_checkpointing_kwargs": "activations are computed again in the one way that works with adapters",
}
# transformers' name → the field that has its meaning, where they differ.
OWN_FIELDS = {
    "auto_find_batch_size": "autoBatchSize",
    "activation_checkpointing": "gradientCheckpointing",
}


class ExtraArgs(Model):
    """The values of `extraArgs`, read. Defaults are the trainer's; None leaves a choice to it."""

    dataloader_drop_last: bool = False
    dataloader_pin_memory: bool = True
    eval_delay: Annotated[float, Field(ge=0)] = 0.0
    eval_on_start: bool = False
    full_determinism: bool = False
    logging_strategy: Literal["no", "steps", "epoch"] = "steps"
    tf32: bool = False
    torch_compile: bool | None = None
    torch_empty_cache_steps: Annotated[int, Field(ge=0)] = 0
    train_sampling_strategy: Literal["random", "sequential"] = "random"


def transformers_arguments() -> list[str]:
    """The names of transformers' TrainingArguments; the installed release's, as a test sees to."""
    return files("finetune_api").joinpath("transformers_arguments.txt").read_text().split()


def refusal(name: str, own: Mapping[str, str]) -> tuple[str, str] | None:
    """Why `name` is no extra argument, and what to do; None where it is one. `own`: our fields' names, on the wire."""
    if name in ExtraArgs.model_fields:
        return None
    field = OWN_FIELDS.get(name) or own.get(name)
    if field:
        return f"it has a field of its own, {field}", f"Use trainingArgs.{field}."
    if name in NOT_APPLICABLE:
        return f"not applicable: {NOT_APPLICABLE[name]}", "Remove it."
    known = [*ExtraArgs.model_fields, *own, *transformers_arguments()]
    nearest = get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"Nearest: {nearest[0]}." if nearest else f"There are: {', '.join(ExtraArgs.model_fields)}."
    return "transformers has no argument of this name", hint
