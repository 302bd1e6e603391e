"""Olive's `training_args` → `trainingArgs` of a fine-tuning pass."""

from __future__ import annotations

from typing import Any

from finetune_api.extra_args import ExtraArgs
from finetune_api.olive import reasons
from finetune_api.olive.copying import Fields, accepts, copy_fields, leave_rest
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.reading import Record, Source
from finetune_api.training import LrSchedulerKwargs, TrainingArgs

_SPELLINGS = {
    "evaluation_strategy": "eval_strategy",
    "auto_find_batch_size": "auto_batch_size",
    "activation_checkpointing": "gradient_checkpointing",
}
# transformers' further names of optimizers that jobs have.
_OPTIMIZERS = {
    "adamw_hf": "adamw_torch",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "lion": "lion_32bit",
    "paged_lion": "paged_lion_32bit",
}
_TRACKERS = ("tensorboard", "mlflow", "wandb")
# What Olive sets where a file says nothing, and a job would not. Up to 0.6 (olive/passes/pytorch/lora.py) …
_OLD_DEFAULTS: dict[str, Any] = {"gradientAccumulationSteps": 16, "gradientCheckpointing": True}
_OLD_MAX_STEPS = 10_000
# … and from 0.7, where transformers' own defaults hold beside it.
_DEFAULTS: dict[str, Any] = {"perDeviceTrainBatchSize": 8, "gradientCheckpointing": True}


def training_args(source: Source | None, target: str, record: Record, *, old: bool, measured: bool) -> dict[str, Any]:
    """The training loop. `old`: the file is of Olive 0.6 or earlier; `measured`: there are rows to evaluate on."""
    fields = source.fields("extra_args") if source else {}
    max_steps = fields.get("max_steps")
    if max_steps is not None and isinstance(max_steps.value, int) and max_steps.value < 1:
        max_steps.left_out("no bound, as numTrainEpochs alone has it.")
        del fields["max_steps"]
    result = _schedule_settings(fields, target) | _trackers(fields, target) | _optimizer(fields, target)
    _sampling(fields)
    result |= _extra_args(fields, target)
    result |= copy_fields(fields, TrainingArgs, target, _SPELLINGS)
    leave_rest(fields, reasons.TRAINING_ARGS)
    _write_defaults(result, record, target, old=old)
    _without_evaluation(result, record, target, measured=measured)
    return result


def _schedule_settings(fields: Fields, target: str) -> dict[str, Any]:
    source = fields.pop("lr_scheduler_kwargs", None)
    if source is None:
        return {}
    settings = source.fields()
    copied = copy_fields(settings, LrSchedulerKwargs, f"{target}.lrSchedulerKwargs", {})
    leave_rest(settings, {})
    if not copied and source.value == {}:
        source.left_out("it is empty.")
    return {"lrSchedulerKwargs": copied} if copied else {}


def _trackers(fields: Fields, target: str) -> dict[str, Any]:
    source = fields.pop("report_to", None)
    if source is None:
        return {}
    named = source.value if isinstance(source.value, list) else [source.value]
    known = [name for name in _TRACKERS if name in named]
    unknown = [name for name in named if name not in _TRACKERS]
    if unknown or not known:
        source.note(NoteKind.LEFT_OUT, f"of {source.value!r}, {known or 'nothing'} is kept. {reasons.TRACKERS}")
    else:
        source.land(f"{target}.reportTo")
    return {"reportTo": known} if known else {}


def _optimizer(fields: Fields, target: str) -> dict[str, Any]:
    source = fields.get("optim")
    value = _OPTIMIZERS.get(source.value) if source and isinstance(source.value, str) else None
    if source is None or value is None:
        return {}
    fields.pop("optim").land(f"{target}.optim")
    return {"optim": value}


def _sampling(fields: Fields) -> None:
    """transformers 5 says group_by_length as one of train_sampling_strategy's words."""
    source = fields.get("train_sampling_strategy")
    if source is not None and source.value == "group_by_length" and "group_by_length" not in fields:
        del fields["train_sampling_strategy"]
        fields["group_by_length"] = Source(True, source.path, source.record)


def _extra_args(fields: Fields, target: str) -> dict[str, Any]:
    """What has no field of its own, and is acted on all the same; values become text."""
    taken: dict[str, str] = {}
    for name in [name for name in fields if name in ExtraArgs.model_fields]:
        source = fields.pop(name)
        text = str(source.value).lower() if isinstance(source.value, bool) else str(source.value)
        if isinstance(source.value, bool | int | float | str) and accepts(ExtraArgs, name, source.value):
            taken[name] = text
            source.land(f"{target}.extraArgs.{name}")
        else:
            source.left_out(f"{source.value!r} is no value that the trainer takes for it.")
    return {"extraArgs": taken} if taken else {}


def _write_defaults(result: dict[str, Any], record: Record, target: str, *, old: bool) -> None:
    wanted = dict(_OLD_DEFAULTS if old else _DEFAULTS)
    if old and "maxSteps" not in result and "numTrainEpochs" not in result:
        wanted["maxSteps"] = _OLD_MAX_STEPS
    added = {key: value for key, value in wanted.items() if key not in result}
    if added:
        result |= added
        said = ", ".join(f"{key} {value}" for key, value in added.items())
        release = "0.6 and earlier" if old else "0.7 and later"
        record.add(NoteKind.CHANGED, target, f"Olive's defaults of {release} written out: {said}.")


def _without_evaluation(result: dict[str, Any], record: Record, target: str, *, measured: bool) -> None:
    if result.get("loadBestModelAtEnd") and (not measured or result.get("evalStrategy", "no") == "no"):
        result["loadBestModelAtEnd"] = False
        said = "false: nothing is evaluated while training, so nothing tells which adapter is best."
        record.add(NoteKind.CONTRADICTS, f"{target}.loadBestModelAtEnd", said)
    if result.get("evalStrategy", "no") != "no" and not measured:
        result["evalStrategy"] = "no"
        record.add(
            NoteKind.CONTRADICTS,
            f"{target}.evalStrategy",
            "no: there are no rows to evaluate on. Give the pass evalDatasetSize or evalDataConfig.",
        )
