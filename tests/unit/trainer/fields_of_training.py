"""Fields of training: what a training logs, learns and saves by them, the order of its steps, its pod."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from finetune_api.data import PreProcessDataConfig
from finetune_api.job import JobSpec
from finetune_operator.mounts import mounts
from finetune_operator.plan import PodSettings
from finetune_trainer.checkpoints import Checkpoints
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.passes.lora import collator
from finetune_trainer.report import Reporter
from finetune_trainer.training.loop import Surroundings, Training
from finetune_trainer.training.micro_batches import settle
from finetune_trainer.training.schedules import learning_rate
from finetune_trainer.training.setup import Setup
from finetune_trainer.training.trackers import Trackers, open_trackers

from .fields import Case, Fields
from .letters import Letters
from .test_extra_args import TABLE as EXTRA
from .test_trackers import DOCUMENT
from .test_training_args import CPU, Bigram, Ran, args, group, judged, optimizer, order, plan, samples, saves

# --- training: (place, **trainingArgs) → what differs


def at_step_3(_: Any, **fields: Any) -> float:
    return learning_rate(args(**fields), 3, 6)


def rates(_: Any, **fields: Any) -> list[float]:
    return [learning_rate(args(**fields), step, 12) for step in range(1, 13)]


def learned(_: Any, **fields: Any) -> list[float]:
    return Ran(**fields).weights.tolist()


def ordered(_: Any, **fields: Any) -> list[Any]:
    return order(**fields)


def total(_: Any, **fields: Any) -> int:
    return plan(**fields).total


def grouped(name: str) -> Callable[..., Any]:
    return lambda _, **fields: group(**fields)[name]


def ran(name: str) -> Callable[..., Any]:
    return lambda _, **fields: getattr(Ran(**fields), name)


def saved(_: Any, **fields: Any) -> list[int]:
    return saves(**fields)


def evaluated_at_once(_: Any, **fields: Any) -> list[int]:
    """How many samples each pass of an evaluation of six takes."""
    sizes: list[int] = []

    class Counted(Bigram):
        def forward(self, input_ids: torch.Tensor, **more: Any) -> Any:
            if not self.training:
                sizes.append(len(input_ids))
            return super().forward(input_ids, **more)

    trained(Counted(), **fields).run()
    return sizes


def trained(model: torch.nn.Module, **fields: Any) -> Training:
    parsed, report = args(**{"maxSteps": 2, **fields}), Reporter(io.StringIO())
    torch.manual_seed(0)
    around = Surroundings(report, Trackers({}, report))
    setup = Setup(model, CPU, None, collator(PreProcessDataConfig(strategy="line-by-line"), Letters(), CPU))
    return Training(setup, torch.optim.SGD(model.parameters(), 0.1), samples(8), samples(6), parsed, around)


def fitted(_: Any, **fields: Any) -> tuple[int, bool]:
    """Samples per pass, and whether activations are computed again, where memory is for four, or for two thus."""
    cost = [1.0]

    def measure(size: int) -> int:
        if size * cost[0] > 4:
            raise torch.OutOfMemoryError
        return size

    try:
        fit = settle(args(**{"perDeviceTrainBatchSize": 8, **fields}), measure, lambda: cost.__setitem__(0, 0.5))
    except torch.OutOfMemoryError:
        return 0, False
    return fit.size, fit.recomputing


def kept_checkpoints(place: Any, **fields: Any) -> list[int]:
    folder = place.here / "state"
    folder.mkdir(exist_ok=True)
    (folder / "state.pt").write_bytes(b"state")
    parsed = args(**fields)
    store = Checkpoints(
        FolderObjects(place.here / f"store-{parsed.save_total_limit}"),
        "0" * 64,
        "a",
        place.here / "x",
        Reporter(io.StringIO()),
    )
    for step in (1, 2, 3):
        store.save(step, folder, parsed.save_total_limit)
    return [found.step for found in store.newest_first()]


def opened_trackers(place: Any, **fields: Any) -> list[str]:
    said = io.StringIO()
    open_trackers(args(**fields), DOCUMENT, place.here, place.here, Reporter(said)).close()
    return sorted(path.name for path in place.here.glob("tensorboard"))


def run_named(place: Any, **fields: Any) -> str:
    names: list[str] = []
    patch = place.fixture("monkeypatch")
    fake = SimpleNamespace(
        init=lambda **settings: (names.append(settings["name"]), SimpleNamespace(finish=lambda: None))[1]
    )
    patch.setitem(__import__("sys").modules, "wandb", fake)
    open_trackers(args(reportTo=["wandb"], **fields), DOCUMENT, place.here, place.here, Reporter(io.StringIO())).close()
    return names[0]


def secrets_mounted(_: Any, **fields: Any) -> list[str]:
    """The Secrets that the training's pod gets."""
    document = DOCUMENT.model_copy(update={"config": {"trainingArgs": args(**fields).wire()}})
    spec = JobSpec.model_validate(SPEC)
    volumes = [mounted.volume() for mounted in mounts(PodSettings(image="trainer"), document, spec, "1Gi")]
    return [volume["secret"]["secretName"] for volume in volumes if "secret" in volume]


SPEC = {
    "inputModel": {"modelPath": "s3://bucket/model"},
    "dataConfigs": [{"name": "d", "loadDatasetConfig": {"dataFiles": ["s3://bucket/rows"]}}],
    "passes": [{"name": "lora", "type": "LoRA", "config": {"trainDataConfig": "d"}}],
    "storage": {"uri": "s3://bucket/out"},
}
EVERY_2, WSD = {"evalStrategy": "steps", "evalSteps": 2}, {"lrSchedulerType": "warmup_stable_decay"}
LINEAR = {"lrSchedulerType": "linear"}
TRAINING = {
    "seed": Case({"seed": 1}, {"seed": 2}, learned),
    "dataSeed": Case({"dataSeed": 1}, {"dataSeed": 2}, ordered),
    "perDeviceTrainBatchSize": Case({"perDeviceTrainBatchSize": 1}, {"perDeviceTrainBatchSize": 4}, ordered),
    "perDeviceEvalBatchSize": Case({"perDeviceEvalBatchSize": 1}, {"perDeviceEvalBatchSize": 4}, evaluated_at_once),
    "gradientAccumulationSteps": Case({}, {"gradientAccumulationSteps": 2}, ordered),
    "autoBatchSize": Case({}, {"autoBatchSize": False}, fitted),
    "gradientCheckpointing": Case(
        {"autoBatchSize": False}, {"autoBatchSize": False, "gradientCheckpointing": False}, fitted
    ),
    "learningRate": Case({"learningRate": 0.1}, {"learningRate": 0.2}, at_step_3),
    "lrSchedulerType": Case(LINEAR, {"lrSchedulerType": "cosine"}, at_step_3),
    "lrSchedulerKwargs": Case(
        {"lrSchedulerType": "polynomial"},
        {"lrSchedulerType": "polynomial", "lrSchedulerKwargs": {"power": 2}},
        at_step_3,
    ),
    "warmupSteps": Case(LINEAR | {"warmupSteps": 3}, LINEAR | {"warmupSteps": 5}, at_step_3),
    "warmupRatio": Case(LINEAR | {"warmupRatio": 0.5}, LINEAR, at_step_3),
    "numTrainEpochs": Case({"maxSteps": None, "numTrainEpochs": 1}, {"maxSteps": None}, total),
    "maxSteps": Case({"maxSteps": 3}, {"maxSteps": 4}, total),
    "weightDecay": Case({"weightDecay": 0.1}, {}, grouped("weight_decay")),
    "adamBeta1": Case({"adamBeta1": 0.8}, {}, grouped("betas")),
    "adamBeta2": Case({"adamBeta2": 0.8}, {}, grouped("betas")),
    "adamEpsilon": Case({"adamEpsilon": 1e-3}, {}, grouped("eps")),
    "maxGradNorm": Case({"maxGradNorm": 0.01, "optim": "sgd"}, {"maxGradNorm": 0, "optim": "sgd"}, learned),
    "labelSmoothingFactor": Case({"labelSmoothingFactor": 0.2}, {}, learned),
    "neftuneNoiseAlpha": Case({"neftuneNoiseAlpha": 5}, {}, learned),
    "optim": Case({"optim": "sgd"}, {"optim": "adafactor"}, lambda _, **fields: type(optimizer(**fields))),
    "groupByLength": Case(
        {"groupByLength": True, "perDeviceTrainBatchSize": 4}, {"perDeviceTrainBatchSize": 4}, ordered
    ),
    "loggingSteps": Case({"loggingSteps": 2}, {"loggingSteps": 3}, ran("logged")),
    "loggingFirstStep": Case({"loggingFirstStep": True}, {}, ran("logged")),
    "reportTo": Case({}, {"reportTo": ["tensorboard"]}, opened_trackers),
    "reportToSecretRef": Case({}, {"reportToSecretRef": {"name": "tracking"}}, secrets_mounted),
    "runName": Case({}, {"runName": "mine"}, run_named),
    "evalStrategy": Case({"evalStrategy": "steps", "loggingSteps": 2}, {}, ran("evaluated")),
    "evalSteps": Case(EVERY_2, EVERY_2 | {"evalSteps": 3}, ran("evaluated")),
    "loadBestModelAtEnd": Case(EVERY_2 | {"loadBestModelAtEnd": True}, EVERY_2, ran("eval_loss")),
    "earlyStoppingPatience": Case(EVERY_2 | {"earlyStoppingPatience": 1}, EVERY_2, ran("logged")),
    "earlyStoppingThreshold": Case(
        {"earlyStoppingPatience": 2, "earlyStoppingThreshold": 0.5},
        {"earlyStoppingPatience": 2},
        lambda _, **fields: judged(args(**fields), 2.0, 1.9, 1.8),
    ),
    "saveStrategy": Case({"saveStrategy": "epoch"}, {"saveStrategy": "no"}, saved),
    "saveSteps": Case({"saveSteps": 5}, {"saveSteps": 4}, saved),
    "saveMinutes": Case({"saveMinutes": 1e-9}, {"saveMinutes": 60}, saved),
    "saveTotalLimit": Case({"saveTotalLimit": 1}, {"saveTotalLimit": 3}, kept_checkpoints),
    "stallSeconds": Case(
        {"stallSeconds": 7}, {"stallSeconds": 8}, lambda _, **f: trained(Bigram(), **f)._watch._seconds
    ),
    "extraArgs": Case({}, {"extraArgs": {"eval_on_start": "true"}}, ran("evaluated")),
}


def scheduled(schedule: str, other: Fields, **one: Any) -> Case:
    both = {"lrSchedulerType": schedule, "warmupSteps": 4}
    return Case(both | {"lrSchedulerKwargs": one or None}, both | {"lrSchedulerKwargs": one | other}, rates)


SCHEDULE = {
    "numCycles": scheduled("cosine_with_restarts", {"numCycles": 2}),
    "power": scheduled("polynomial", {"power": 2}),
    "lrEnd": scheduled("polynomial", {"lrEnd": 0.01}),
    "minLr": scheduled("cosine_with_min_lr", {"minLr": 0.02}, minLr=0.01),
    "minLrRate": scheduled("cosine_with_min_lr", {"minLrRate": 0.5}, minLrRate=0.1),
    "timescale": scheduled("inverse_sqrt", {"timescale": 2}),
    "numDecaySteps": scheduled("warmup_stable_decay", {"numDecaySteps": 3}, numDecaySteps=2),
    "numStableSteps": scheduled("warmup_stable_decay", {"numStableSteps": 1}, numDecaySteps=2),
    "warmupType": scheduled("warmup_stable_decay", {"warmupType": "cosine"}, numDecaySteps=2),
    "decayType": scheduled("warmup_stable_decay", {"decayType": "linear"}, numDecaySteps=4),
    "minLrRatio": scheduled("warmup_stable_decay", {"minLrRatio": 0.2}, numDecaySteps=2),
}

# Value, further settings, and what is seen: with it and without.
EXTRA_ARGS = {
    name: Case(more, more | {"extraArgs": {name: value}}, lambda _, seen=seen, **fields: seen(**fields))
    for name, (value, more, seen) in EXTRA.items()
}
