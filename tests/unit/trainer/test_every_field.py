"""One table over all that can be said of data and of training: a field, two settings, and what differs between them.

What is seen is the least that shows it: the rows that are read, the samples of tokens made of them, the batches, the
order of steps, an optimizer's settings, what a training logged or learned, a pod's manifest.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel

from finetune_api.data import DataConfig, LoadDatasetConfig, PreProcessDataConfig, SplitFiles
from finetune_api.extra_args import ExtraArgs
from finetune_api.job import JobSpec
from finetune_api.training import LrSchedulerKwargs, TrainingArgs
from finetune_operator.mounts import mounts
from finetune_operator.plan import PodSettings
from finetune_trainer.checkpoints import Checkpoints
from finetune_trainer.data import Tokens, arrange, render, tokenize
from finetune_trainer.errors import StageFailure
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.passes.lora import collator
from finetune_trainer.report import Reporter
from finetune_trainer.rows import FileRows
from finetune_trainer.sources import Sources, fetch_data
from finetune_trainer.training.loop import Surroundings, Training
from finetune_trainer.training.micro_batches import settle
from finetune_trainer.training.schedules import learning_rate
from finetune_trainer.training.setup import Setup
from finetune_trainer.training.trackers import Trackers, open_trackers

from . import test_hub_data
from .letters import Letters
from .test_extra_args import TABLE as EXTRA
from .test_extra_args import own_arithmetic  # noqa: F401  (a fixture)
from .test_hub import COMMIT, hub, sources  # noqa: F401  (fixtures)
from .test_hub_data import data_set  # noqa: F401  (a fixture)
from .test_trackers import DOCUMENT
from .test_training_args import CPU, Bigram, Ran, args, group, judged, optimizer, order, plan, samples, saves

Fields = dict[str, Any]


class Case(NamedTuple):
    """Two settings, and what of each is looked at."""

    one: Fields
    other: Fields
    seen: Callable[..., Any]


# --- rows: (folder, hub's sources, **loadDatasetConfig) → the rows' texts


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Any]:
    """place() -> files on a volume, and a hub; `here` is a folder to write in."""

    def make() -> Any:
        claim = tmp_path / "sources/pvc/c"
        claim.mkdir(parents=True, exist_ok=True)
        (claim / "a.json").write_text('{"text": "1", "tone": "joy"}\n{"text": "2", "tone": "fear"}\n')
        (claim / "b.json").write_text('{"text": "3", "tone": "joy"}\n')
        return SimpleNamespace(here=tmp_path, volumes=tmp_path / "sources", fixture=request.getfixturevalue)

    return make


def rows_of(place: Any, **load: Any) -> str:
    """The texts of the rows that are read, or why there are none."""
    try:
        if "/" in load.get("dataName", ""):
            place.fixture("data_set")
            return test_hub_data.read(place.fixture("sources"), **load)
        content = {"name": "d", "loadDatasetConfig": {"dataFiles": ["pvc://c/a.json"]} | load}
        files = {key: value for key, value in content["loadDatasetConfig"].items() if value is not None}
        config = DataConfig.model_validate(content | {"loadDatasetConfig": files})
        found = fetch_data(config, Sources(None, place.here, place.volumes))  # type: ignore[arg-type]
        return "".join(str(row.get("text")) for row in FileRows(config, found))
    except StageFailure as failure:
        return str(failure.reason)


def named(place: Any, **fields: Any) -> str:
    """Where in the spec a file that is not there is said to be missing."""
    content = {"name": "d", "loadDatasetConfig": {"dataFiles": ["pvc://c/gone"]}} | fields
    with pytest.raises(StageFailure) as caught:
        fetch_data(DataConfig.model_validate(content), Sources(None, place.here, place.volumes))  # type: ignore[arg-type]
    return caught.value.problems[0].path


TWO_SPLITS = [{"split": "train", "files": ["pvc://c/a.json"]}, {"split": "more", "files": ["pvc://c/b.json"]}]
NO_FILES = {"dataFiles": None, "split": "more"}
OF_THE_HUB = {"dataName": "acme/tiny"}
LOAD = {
    "dataName": Case({"dataName": "json"}, {"dataName": "text"}, rows_of),
    "subset": Case(OF_THE_HUB, OF_THE_HUB | {"subset": "de"}, rows_of),
    "dataFiles": Case({}, {"dataFiles": ["pvc://c/*.json"]}, rows_of),
    "splitFiles": Case(
        NO_FILES | {"splitFiles": TWO_SPLITS},
        NO_FILES | {"splitFiles": [TWO_SPLITS[1] | {"files": ["pvc://c/a.json"]}]},
        rows_of,
    ),
    "split": Case({}, {"split": "train[1:]"}, rows_of),
    "revision": Case(OF_THE_HUB | {"revision": COMMIT}, OF_THE_HUB | {"revision": "gone"}, rows_of),
    "colFilters": Case({}, {"colFilters": {"tone": "joy"}}, rows_of),
}
SPLIT_FILES = {
    "split": Case(
        NO_FILES | {"splitFiles": TWO_SPLITS},
        NO_FILES | {"splitFiles": [TWO_SPLITS[1], TWO_SPLITS[0] | {"split": "others"}], "split": "others"},
        rows_of,
    ),
    "files": Case(
        NO_FILES | {"splitFiles": [{"split": "more", "files": ["pvc://c/b.json"]}]},
        NO_FILES | {"splitFiles": [{"split": "more", "files": ["pvc://c/b.json", "pvc://c/a.json"]}]},
        rows_of,
    ),
}
DATA = {
    "name": Case({}, {"name": "e"}, named),
    "loadDatasetConfig": Case(
        {}, {"loadDatasetConfig": {"splitFiles": [{"split": "train", "files": ["pvc://c/gone"]}]}}, named
    ),
    "preProcessDataConfig": Case(
        {"preProcessDataConfig": {}},
        {"preProcessDataConfig": {"textCols": ["say"]}},
        lambda _, **fields: made(**fields["preProcessDataConfig"]),
    ),
}

# --- samples: **preProcessDataConfig → each as text, what is learned of it in capitals


def _row(text: str, say: str, asked: str, answered: str) -> Fields:
    said = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"text": text, "say": say, "messages": said, "chat": said[::-1]}


ROWS = [_row("abcde", "xy", "q", "r"), _row("fgh", "z", "s", "t"), _row("ijklmnop", "w", "u", "v")]
CHAT = "{% for m in messages %}{{ m.content }}.{% endfor %}"
_LEARNED, _NOT_LEARNED = {"\x01": "<", "\x02": ">"}, {"\x01": "‹", "\x02": "›"}


def tokens_of(**process: Any) -> list[Tokens]:
    config = PreProcessDataConfig.model_validate({"maxSeqLen": 8, "strategy": "line-by-line", **process})
    rendered = render(ROWS, config, name="d", tokenizer=Letters())
    return list(arrange(tokenize(rendered, Letters(), config), config, Letters()))


def made(**process: Any) -> list[str]:
    """Samples as text: `<` is BOS, `>` EOS; capitals are learned, and `‹›` not; `|` begins a part of a packed one."""
    found = []
    for sample in tokens_of(**process):
        letters = zip(map(chr, sample.ids), sample.learn, strict=True)
        shown = [_LEARNED.get(it, it.upper()) if learn else _NOT_LEARNED.get(it, it) for it, learn in letters]
        for start in reversed(sample.starts[1:]):
            shown.insert(start, "|")
        found.append("".join(shown))
    return found


def batch_of(**process: Any) -> list[Any]:
    """Shape and content of a batch of the first two samples."""
    config = PreProcessDataConfig.model_validate({"maxSeqLen": 12, "strategy": "line-by-line", **process})
    batch = collator(config, Letters(), CPU)(tokens_of(**{"maxSeqLen": 12, **process})[:2])
    mask = None if batch.attention_mask is None else batch.attention_mask.tolist()
    return [batch.input_ids.tolist(), batch.labels.tolist(), mask]


def samples_seen(_: Any, **process: Any) -> list[str]:
    return made(**process)


def batch_seen(_: Any, **process: Any) -> list[Any]:
    return batch_of(**process)


JOIN, DRAWN = {"strategy": "join"}, {"strategy": "line-by-line-random", "maxSamples": 4, "randomSeed": 1}
BLOCKS_DRAWN = {"strategy": "join-random", "maxSamples": 4, "randomSeed": 1, "maxSeqLen": 12}
PROCESS = {
    "textCols": Case({}, {"textCols": ["say"]}, samples_seen),
    "textTemplate": Case({}, {"textTemplate": "{text}!"}, samples_seen),
    "chatTemplate": Case({}, {"chatTemplate": CHAT}, samples_seen),
    "messageCol": Case({"chatTemplate": CHAT, "messageCol": "chat"}, {"chatTemplate": CHAT}, samples_seen),
    "strategy": Case({"strategy": "pack", "maxSeqLen": 16}, JOIN | {"maxSeqLen": 16}, samples_seen),
    "maxSeqLen": Case({}, {"maxSeqLen": 9}, samples_seen),
    "stride": Case(
        {"strategy": "join-sliding-window", "stride": 4}, {"strategy": "join-sliding-window", "stride": 8}, samples_seen
    ),
    "joiner": Case(JOIN, JOIN | {"joiner": "-"}, samples_seen),
    "padToMaxLen": Case({}, {"padToMaxLen": True}, batch_seen),
    "paddingSide": Case({}, {"paddingSide": "left"}, batch_seen),
    "useAttentionMask": Case({}, {"useAttentionMask": False}, batch_seen),
    "dropShortSequences": Case({}, {"dropShortSequences": True}, samples_seen),
    "addSpecialTokens": Case({}, {"addSpecialTokens": False}, samples_seen),
    "maxSamples": Case({}, {"maxSamples": 2}, samples_seen),
    "randomSeed": Case(DRAWN, DRAWN | {"randomSeed": 2}, samples_seen),
    "randomRetries": Case(BLOCKS_DRAWN | {"randomRetries": 1}, BLOCKS_DRAWN, samples_seen),
    "completionOnlyLoss": Case(
        {"textCols": ["text", "say"]}, {"textCols": ["text", "say"], "completionOnlyLoss": True}, samples_seen
    ),
}
# What some of them come to, letter by letter.
EXACTLY: list[tuple[Fields, list[str]]] = [
    ({}, ["<ABCDE>", "<FGH>", "<IJKLMNO"]),
    ({"addSpecialTokens": False}, ["ABCDE", "FGH", "IJKLMNOP"]),
    ({"textCols": ["text", "say"], "completionOnlyLoss": True, "maxSeqLen": 16},
     ["‹abcde XY>", "‹fgh Z>", "‹ijklmnop W>"]),
    ({"strategy": "pack", "maxSeqLen": 12}, ["‹ABCDE>|‹FGH>", "‹IJKLMNOP>"]),
    (JOIN, ["<ABCDE><", "FGH><IJK"]),
    (JOIN | {"joiner": "-"}, ["<ABCDE>-", "<FGH>-<I", "JKLMNOP>"]),
    ({"strategy": "join-sliding-window", "stride": 4}, ["‹abcDE><", "de›‹FGH>", "fgh›<IJK", "‹ijkLMNO"]),
    ({"chatTemplate": CHAT, "completionOnlyLoss": True}, ["‹q.R.>", "‹s.T.>", "‹u.V.>"]),
]  # fmt: skip


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

TABLE: dict[type[BaseModel], dict[str, Case]] = {
    DataConfig: DATA,
    LoadDatasetConfig: LOAD,
    SplitFiles: SPLIT_FILES,
    PreProcessDataConfig: PROCESS,
    TrainingArgs: TRAINING,
    LrSchedulerKwargs: SCHEDULE,
    ExtraArgs: EXTRA_ARGS,
}


@pytest.mark.parametrize("model", TABLE, ids=lambda model: model.__name__)
def test_no_field_is_forgotten(model: type[BaseModel]) -> None:
    """A field that can say one thing only makes no difference; all others are in the table, and nothing else is."""
    # Arguments of transformers are written as there.
    own_names = model is not ExtraArgs
    said = {str(info.alias) if own_names else name: info.annotation for name, info in model.model_fields.items()}
    single = {name for name, kind in said.items() if get_origin(kind) is Literal and len(get_args(kind)) == 1}
    assert TABLE[model].keys() == said.keys() - single
    assert not single or (model, single) == (DataConfig, {"type"})


ALL = [
    pytest.param(case, id=f"{model.__name__}.{field}")
    for model, fields in TABLE.items()
    for field, case in fields.items()
]


@pytest.mark.parametrize("case", ALL)
def test_a_field_makes_a_difference(case: Case, place: Callable[[], Any]) -> None:
    here = place()
    first, again, other = case.seen(here, **case.one), case.seen(here, **case.one), case.seen(here, **case.other)
    assert first == again, "the same settings show the same"
    assert first != other


@pytest.mark.parametrize(("process", "expected"), EXACTLY)
def test_samples_are_letter_by_letter_what_is_written(process: Fields, expected: list[str]) -> None:
    assert made(**process) == expected
