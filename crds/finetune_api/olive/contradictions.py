"""What a configuration says that has no effect, or that something else of it overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.olive.notes import Note, NoteKind

Spec = Mapping[str, Any]


def contradictions(spec: Spec, origins: Mapping[str, str]) -> Iterator[Note]:
    """Notes on the values of an imported `spec`; `origins` gives the input's path of each value that landed."""
    data = {config["name"]: config["preProcessDataConfig"] for config in spec["dataConfigs"]}
    for config in spec["dataConfigs"]:
        target = f"spec.dataConfigs[name={config['name']}].preProcessDataConfig"
        for field, said in _data(config["preProcessDataConfig"]):
            yield _note(f"{target}.{field}", said, origins)
    for item in spec["passes"]:
        config = item.get("config", {})
        arguments = config.get("trainingArgs")
        if arguments is None:
            continue
        target = f"spec.passes[name={item['name']}].config.trainingArgs"
        joins = data.get(config.get("trainDataConfig"), {}).get("strategy") == "join"
        for field, said in _training(arguments, joins=joins):
            yield _note(f"{target}.{field}", said, origins)


def _note(target: str, said: str, origins: Mapping[str, str]) -> Note:
    return Note(NoteKind.CONTRADICTS, origins.get(target, target), said)


def _data(process: Spec) -> Iterator[tuple[str, str]]:
    strategy = process.get("strategy", "")
    if strategy.startswith("join") and process.get("padToMaxLen"):
        yield "padToMaxLen", f"does nothing under the strategy {strategy}, whose blocks are all of maxSeqLen tokens."


def _training(arguments: Spec, *, joins: bool) -> Iterator[tuple[str, str]]:
    steps, epochs = arguments.get("maxSteps"), arguments.get("numTrainEpochs")
    if steps is not None and epochs is not None:
        yield "maxSteps", f"{steps} steps override numTrainEpochs {epochs:g}: training ends after {steps} steps."
    every, strategy = arguments.get("evalSteps"), arguments.get("evalStrategy", "no")
    if every is not None and strategy != "steps":
        yield "evalSteps", f"does nothing under evalStrategy {strategy}."
    elif every is not None and steps is not None and every > steps:
        yield "evalSteps", f"{every} is never reached: training ends after {steps} steps (maxSteps)."
    if joins and arguments.get("groupByLength"):
        yield "groupByLength", "does nothing under the strategy join, whose blocks are all of one length."
    if arguments.get("lrSchedulerType", "constant") == "constant":
        for field in ("warmupRatio", "warmupSteps"):
            if arguments.get(field):
                yield field, "does nothing under lrSchedulerType constant; constant_with_warmup has a warm-up."
