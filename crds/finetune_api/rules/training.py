"""Rules of the training loop: settings that belong together, and arguments that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import ValidationError

from finetune_api.extra_args import ExtraArgs, refusal
from finetune_api.job import JobSpec
from finetune_api.lora import LoraConfig
from finetune_api.problems import Problem, problem
from finetune_api.training import SCHEDULES_OF, LrSchedulerKwargs, TrainingArgs

ArgsRule = Callable[[TrainingArgs, str], Iterator[Problem]]


def training_args(spec: JobSpec) -> Iterator[Problem]:
    """Every rule below, for each pass that trains."""
    for index, item in enumerate(spec.passes):
        if isinstance(item.config, LoraConfig):
            for rule in ARGS_RULES:
                yield from rule(item.config.training_args, f"spec.passes[{index}].config.trainingArgs")


def settings_of_schedules(args: TrainingArgs, path: str) -> Iterator[Problem]:
    """A schedule has its own settings, and no other's."""
    kwargs, schedule = args.lr_scheduler_kwargs or LrSchedulerKwargs(), args.lr_scheduler_type
    path = f"{path}.lrSchedulerKwargs"
    for name, schedules in SCHEDULES_OF.items():
        value = getattr(kwargs, name)
        if value is not None and schedule not in schedules:
            alias = LrSchedulerKwargs.model_fields[name].alias
            remedy = f"Remove it, or use lrSchedulerType {' or '.join(schedules)}."
            yield problem(f"{path}.{alias}", value, f"{schedule} has no such setting", remedy)
    if schedule == "cosine_with_min_lr" and (kwargs.min_lr is None) == (kwargs.min_lr_rate is None):
        given = "neither of minLr and minLrRate" if kwargs.min_lr is None else "both minLr and minLrRate"
        yield problem(path, None, f"{given} is given for cosine_with_min_lr", "Give one of them.")
    if schedule == "warmup_stable_decay" and kwargs.num_decay_steps is None:
        yield problem(f"{path}.numDecaySteps", None, "warmup_stable_decay does not know when to fall", "Give it.")
    for name in ("lr_end", "min_lr"):
        value = getattr(kwargs, name)
        if value is not None and value >= args.learning_rate and schedule in SCHEDULES_OF[name]:
            alias = LrSchedulerKwargs.model_fields[name].alias
            yield problem(f"{path}.{alias}", value, f"not below learningRate {args.learning_rate:g}", "Lower it.")


def best_needs_evaluations(args: TrainingArgs, path: str) -> Iterator[Problem]:
    """What rests on evaluations while training has some."""
    if args.eval_strategy != "no":
        return
    for name in ("load_best_model_at_end", "early_stopping_patience"):
        value = getattr(args, name)
        if value:
            alias = TrainingArgs.model_fields[name].alias
            said, remedy = (
                "evalStrategy is no, so nothing tells which adapter is best",
                "Set evalStrategy, or remove it.",
            )
            yield problem(f"{path}.{alias}", value, said, remedy)


def threshold_needs_patience(args: TrainingArgs, path: str) -> Iterator[Problem]:
    """A threshold is one of early stopping."""
    if args.early_stopping_threshold and args.early_stopping_patience is None:
        value, remedy = args.early_stopping_threshold, "Give it, or remove this."
        yield problem(f"{path}.earlyStoppingThreshold", value, "earlyStoppingPatience is not given", remedy)


def trackers_that_read(args: TrainingArgs, path: str) -> Iterator[Problem]:
    """A Secret or a name for trackers has a tracker that reads it."""
    if {"mlflow", "wandb"} & set(args.report_to or ()):
        return
    for alias, value in (
        ("reportToSecretRef", args.report_to_secret_ref and args.report_to_secret_ref.name),
        ("runName", args.run_name),
    ):
        if value:
            yield problem(
                f"{path}.{alias}", value, "neither mlflow nor wandb is in reportTo", "Add one, or remove this."
            )


def extra_args(args: TrainingArgs, path: str) -> Iterator[Problem]:
    """An extra argument is one that the trainer acts on, and its value is of its type."""
    own = {name: str(info.alias) for name, info in TrainingArgs.model_fields.items()}
    for name, value in (args.extra_args or {}).items():
        refused = refusal(name, own)
        if refused:
            yield problem(f"{path}.extraArgs.{name}", value, *refused)
            continue
        try:
            ExtraArgs.model_validate({name: value})
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"]
            yield problem(
                f"{path}.extraArgs.{name}", value, said[0].lower() + said[1:], "Write it as text of its type."
            )


def one_order(args: TrainingArgs, path: str) -> Iterator[Problem]:
    """Samples come in one order."""
    name = "train_sampling_strategy"
    if args.group_by_length and (args.extra_args or {}).get(name) == "sequential":
        message, remedy = "groupByLength puts samples into an order of its own", "Remove one of them."
        yield problem(f"{path}.extraArgs.{name}", "sequential", message, remedy)


ARGS_RULES: tuple[ArgsRule, ...] = (
    settings_of_schedules,
    best_needs_evaluations,
    threshold_needs_patience,
    trackers_that_read,
    extra_args,
    one_order,
)
RULES = (training_args,)
