"""Olive's `training_args` → `trainingArgs` of a fine-tuning pass."""

from __future__ import annotations

from typing import Any

from finetune_api.olive import reasons
from finetune_api.olive.copying import copy_fields, leave_rest
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.reading import Record, Source
from finetune_api.training import TrainingArgs

_SPELLINGS = {"evaluation_strategy": "eval_strategy"}
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
    result = copy_fields(fields, TrainingArgs, target, _SPELLINGS)
    leave_rest(fields, reasons.TRAINING_ARGS)
    _write_defaults(result, record, target, old=old)
    _without_evaluation(result, record, target, measured=measured)
    return result


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
    if result.get("evalStrategy", "no") != "no" and not measured:
        result["evalStrategy"] = "no"
        record.add(
            NoteKind.CONTRADICTS,
            f"{target}.evalStrategy",
            "no: there are no rows to evaluate on. Give the pass evalDatasetSize or evalDataConfig.",
        )
