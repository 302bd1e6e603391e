"""What is wrong with trainingArgs is said; which of transformers' arguments there are, and why not the others."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import rules
from finetune_api.extra_args import NOT_APPLICABLE, OWN_FIELDS, ExtraArgs, refusal, transformers_arguments
from finetune_api.olive.convert import import_config
from finetune_api.olive.notes import NoteKind
from finetune_api.training import SCHEDULES_OF, LrSchedulerKwargs, TrainingArgs

from .specs import changed, job_spec
from .test_olive import NEW, OPTIONS

ARGS = "spec.passes[0].config.trainingArgs"
OWN = {name: str(info.alias) for name, info in TrainingArgs.model_fields.items()}


def found(**args: Any) -> list[tuple[str, str, str]]:
    spec = changed(job_spec(), "passes[0].config.trainingArgs", args)
    spec = changed(spec, "passes[0].config.evalDatasetSize", 0.3)
    parsed, problems = rules.check(spec)
    assert parsed is not None
    return [(item.path.removeprefix(f"{ARGS}."), item.message, item.remedy) for item in problems]


@pytest.mark.parametrize(
    "args",
    [
        {"lrSchedulerType": "polynomial", "lrSchedulerKwargs": {"power": 2, "lrEnd": 0}},
        {"lrSchedulerType": "cosine_with_min_lr", "lrSchedulerKwargs": {"minLrRate": 0.1}},
        {"lrSchedulerType": "warmup_stable_decay", "lrSchedulerKwargs": {"numDecaySteps": 5, "numCycles": 1}},
        {"evalStrategy": "steps", "earlyStoppingPatience": 3, "earlyStoppingThreshold": 0.1},
        {"reportTo": ["mlflow"], "reportToSecretRef": {"name": "s"}, "runName": "r"},
        {"extraArgs": {"eval_delay": "2.5", "tf32": "true", "torch_empty_cache_steps": "10"}},
        {"extraArgs": {"train_sampling_strategy": "sequential", "logging_strategy": "no", "torch_compile": "false"}},
    ],
)
def test_what_belongs_together_is_right(args: dict[str, Any]) -> None:
    assert found(**args) == []


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (
            {"lrSchedulerKwargs": {"power": 2}},
            ("lrSchedulerKwargs.power", "constant has no such setting",
             "Remove it, or use lrSchedulerType polynomial."),
        ),
        (
            {"lrSchedulerType": "cosine_with_min_lr"},
            ("lrSchedulerKwargs", "neither of minLr and minLrRate is given for cosine_with_min_lr",
             "Give one of them."),
        ),
        (
            {"lrSchedulerType": "cosine_with_min_lr", "lrSchedulerKwargs": {"minLr": 1e-5, "minLrRate": 0.1}},
            ("lrSchedulerKwargs", "both minLr and minLrRate is given for cosine_with_min_lr", "Give one of them."),
        ),
        (
            {"lrSchedulerType": "warmup_stable_decay"},
            ("lrSchedulerKwargs.numDecaySteps", "warmup_stable_decay does not know when to fall", "Give it."),
        ),
        (
            {"lrSchedulerType": "polynomial", "lrSchedulerKwargs": {"lrEnd": 0.1}, "learningRate": 0.1},
            ("lrSchedulerKwargs.lrEnd", "not below learningRate 0.1", "Lower it."),
        ),
        (
            {"loadBestModelAtEnd": True},
            ("loadBestModelAtEnd", "evalStrategy is no, so nothing tells which adapter is best",
             "Set evalStrategy, or remove it."),
        ),
        (
            {"earlyStoppingPatience": 2},
            ("earlyStoppingPatience", "evalStrategy is no, so nothing tells which adapter is best",
             "Set evalStrategy, or remove it."),
        ),
        (
            {"earlyStoppingThreshold": 0.1},
            ("earlyStoppingThreshold", "earlyStoppingPatience is not given", "Give it, or remove this."),
        ),
        (
            {"runName": "mine", "reportTo": ["tensorboard"]},
            ("runName", "neither mlflow nor wandb is in reportTo", "Add one, or remove this."),
        ),
        (
            {"extraArgs": {"weight_decay": "0.1"}},
            ("extraArgs.weight_decay", "it has a field of its own, weightDecay", "Use trainingArgs.weightDecay."),
        ),
        (
            {"extraArgs": {"bf16": "true"}},
            ("extraArgs.bf16", "not applicable: the pass's torchDtype and computeDtype say how numbers are held",
             "Remove it."),
        ),
        (
            {"extraArgs": {"train_sampling_strategy": "sequential"}, "groupByLength": True},
            ("extraArgs.train_sampling_strategy", "groupByLength puts samples into an order of its own",
             "Remove one of them."),
        ),
        (
            {"extraArgs": {"train_sampling_strategy": "group_by_length"}},
            ("extraArgs.train_sampling_strategy", "input should be 'random' or 'sequential'",
             "Write it as text of its type."),
        ),
        (
            {"extraArgs": {"log_level": "info"}},
            ("extraArgs.log_level", "not applicable: progress is written as JSON lines; loggingSteps says how often, "
             "engine.logSeverityLevel what else is", "Remove it."),
        ),
        (
            {"extraArgs": {"eval_delai": "1"}},
            ("extraArgs.eval_delai", "transformers has no argument of this name", "Nearest: eval_delay."),
        ),
        (
            {"extraArgs": {"tf32": "maybe"}},
            ("extraArgs.tf32", "input should be a valid boolean, unable to interpret input",
             "Write it as text of its type."),
        ),
    ],
)  # fmt: skip
def test_what_does_not_is_said_with_its_path_and_remedy(args: dict[str, Any], problem: tuple[str, str, str]) -> None:
    assert found(**args) == [problem]


def test_every_setting_of_a_schedule_belongs_to_one() -> None:
    assert set(SCHEDULES_OF) == set(LrSchedulerKwargs.model_fields)


def test_every_argument_of_transformers_is_taken_or_refused_with_a_reason() -> None:
    names = transformers_arguments()
    assert len(names) > 100
    for name in names:
        ways = [name in ExtraArgs.model_fields, name in OWN or name in OWN_FIELDS, name in NOT_APPLICABLE]
        assert ways.count(True) == 1, name
        said = refusal(name, OWN)
        assert said is None or "no argument of this name" not in said[0]
    assert set(NOT_APPLICABLE) | set(OWN_FIELDS) | set(ExtraArgs.model_fields) <= set(names)
    assert set(OWN_FIELDS.values()) <= set(OWN.values())


def test_the_list_is_the_installed_transformers_own() -> None:
    from dataclasses import fields

    from transformers import TrainingArguments

    assert transformers_arguments() == sorted(field.name for field in fields(TrainingArguments))


def test_an_evaluation_that_decides_is_in_the_key() -> None:
    from finetune_api.keys import digest, effective

    def key(**args: Any) -> str:
        return digest(effective(TrainingArgs.model_validate({"evalStrategy": "steps", **args})))

    assert key(evalSteps=2) == key(evalSteps=3)
    assert key(loggingSteps=2) == key(loggingSteps=3)
    best = {"loadBestModelAtEnd": True}
    assert key(**best, evalSteps=2) != key(**best, evalSteps=3)
    assert key(**best, loggingSteps=2) != key(**best, loggingSteps=3)
    assert key(**best, evalSteps=2, loggingSteps=2) == key(**best, evalSteps=2, loggingSteps=3)


def imported(**arguments: Any) -> tuple[dict[str, Any], dict[str, tuple[NoteKind, str]]]:
    config = {**NEW, "passes": {"tune": {**NEW["passes"]["tune"], "training_args": arguments}}}
    result = import_config(config, OPTIONS)
    notes = {note.path.rpartition(".")[2]: (note.kind, note.message) for note in result.notes}
    return result.spec["passes"][0]["config"]["trainingArgs"], notes


def test_olives_arguments_land_in_their_fields() -> None:
    args, _ = imported(
        lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"power": 2.0, "lr_end": 1e-6},
        optim="adamw_bnb_8bit",
        report_to=["tensorboard", "wandb"],
        save_strategy="epoch",
        save_steps=20,
        save_total_limit=1,
        auto_find_batch_size=False,
        neftune_noise_alpha=5,
        label_smoothing_factor=0.1,
        run_name="mine",
        logging_first_step=True,
        train_sampling_strategy="group_by_length",
        extra_args={"eval_delay": 3, "tf32": True, "logging_strategy": "epoch"},
    )
    assert args["lrSchedulerKwargs"] == {"power": 2.0, "lrEnd": 1e-6}
    assert (args["optim"], args["reportTo"]) == ("adamw_8bit", ["tensorboard", "wandb"])
    assert (args["saveStrategy"], args["saveSteps"], args["saveTotalLimit"]) == ("epoch", 20, 1)
    assert (args["autoBatchSize"], args["neftuneNoiseAlpha"], args["labelSmoothingFactor"]) == (False, 5, 0.1)
    assert (args["runName"], args["loggingFirstStep"]) == ("mine", True)
    assert args["extraArgs"] == {"eval_delay": "3", "tf32": "true", "logging_strategy": "epoch"}
    assert args["groupByLength"] is True


def test_what_olive_says_and_a_job_cannot_do_is_named() -> None:
    args, notes = imported(report_to="none", metric_for_best_model="accuracy", optim="galore_adamw", fp16=True)
    assert "reportTo" not in args and "optim" not in args
    assert notes["report_to"][0] is NoteKind.LEFT_OUT
    assert "lowest evaluation loss" in notes["metric_for_best_model"][1]
    assert notes["optim"][0] is NoteKind.DECIDE
    kept, said = imported(load_best_model_at_end=True)
    assert kept["loadBestModelAtEnd"] is False
    assert said["loadBestModelAtEnd"][0] is NoteKind.CONTRADICTS
