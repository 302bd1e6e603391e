"""What a spec amounts to: its stages in order, what each takes in, and where each runs.

Operator and trainer both read this, so that prepare can compute the content key of every stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from finetune_api.base import Model
from finetune_api.builder import ModelBuilderConfig
from finetune_api.evaluators import DEFAULT_VALIDATION_SIZE, Evaluator
from finetune_api.job import JobSpec
from finetune_api.lora import LoraConfig
from finetune_api.passes import ADAPTER_PASSES, MergePass, ModelBuilderPass, Pass

PREPARE = "prepare"
PUBLISH = "publish"
REPORT = "report"
Role = Literal["adapter", "model", "onnx", "reference"]
INPUT_EVALUATION = "evaluate-input"


@dataclass(frozen=True)
class StageOutline:
    """One stage of a job.

    `inputs` names the upstream stage that gives each role; `base` says that the job's input model is read too, and
    `base_adapter` that the adapter on it is (inputModel.adapterPath).
    `evaluator` is what a ModelBuilder that chooses its quantization chooses by.
    """

    name: str
    type: str
    config: Model
    inputs: dict[Role, str] = field(default_factory=dict)
    base: bool = False
    base_adapter: bool = False
    data: tuple[str, ...] = ()
    system: str | None = None
    output: Role | None = None
    evaluator: Evaluator | None = None

    @property
    def computes_on_gpu(self) -> bool:
        """Whether the stage gains from its system's GPU; others are given CPU resources only."""
        if isinstance(self.config, ModelBuilderConfig):
            return self.config.execution_provider == "cuda"
        return self.type in ADAPTER_PASSES or self.type == "Evaluate"


def outline(spec: JobSpec) -> tuple[StageOutline, ...]:
    """The stages between prepare and publish, each after all that it needs.

    `spec` must have passed `finetune_api.rules.check`: names resolve and passes are in a possible order.
    """
    stages: list[StageOutline] = []
    current: dict[Role, str] = {}
    for item in spec.passes:
        stage = _pass_stage(spec, item, current)
        if spec.input_model.adapter_path and not current:
            stage = replace(stage, base_adapter=True)
        stages.append(stage)
        if stage.output == "adapter":
            current = {"adapter": stage.name}
        elif stage.output is not None:
            current = {stage.output: stage.name}
    return _with_evaluations(spec, stages)


def _pass_stage(spec: JobSpec, item: Pass, current: dict[Role, str]) -> StageOutline:
    system = item.host or spec.engine.host
    if isinstance(item.config, LoraConfig):
        data = [item.config.train_data_config]
        if item.config.eval_data_config:
            data.append(item.config.eval_data_config)
        return StageOutline(
            item.name, item.type, item.config, base=True, data=tuple(data), system=system, output="adapter"
        )
    if isinstance(item, MergePass):
        return StageOutline(item.name, item.type, item.config, dict(current), base=True, system=system, output="model")
    chooser = _evaluator_of(spec, item) if isinstance(item, ModelBuilderPass) and item.config.chooses else None
    # The check of the ONNX model reads the texts that the model was trained on, else any that the job names.
    return StageOutline(
        item.name,
        item.type,
        item.config,
        dict(current),
        base="model" not in current,
        data=tuple(dict.fromkeys([*_checked_data(spec), *(chooser.data if chooser else ())])),
        system=system,
        output="onnx",
        evaluator=chooser,
    )


def _checked_data(spec: JobSpec) -> tuple[str, ...]:
    names = [item.config.train_data_config for item in spec.passes if isinstance(item.config, LoraConfig)]
    return tuple(dict.fromkeys(names or [config.name for config in spec.data_configs]))


def _evaluator_of(spec: JobSpec, item: Pass) -> Evaluator | None:
    """The evaluator that measures a pass's output: its own, else for the last pass the engine's."""
    name = item.evaluator or (spec.engine.evaluator if item is spec.passes[-1] else None)
    return _evaluators(spec)[name] if name else None


def _evaluators(spec: JobSpec) -> dict[str, Evaluator]:
    """By name; those that a ModelBuilder chooses by keep rows back for it, in every stage alike."""
    choosing = {
        item.evaluator or (spec.engine.evaluator if item is spec.passes[-1] else None)
        for item in spec.passes
        if isinstance(item, ModelBuilderPass) and item.config.chooses
    }
    return {
        item.name: item.model_copy(update={"validation_size": DEFAULT_VALIDATION_SIZE})
        if item.name in choosing and item.validation_size is None
        else item
        for item in spec.evaluators
    }


def _with_evaluations(spec: JobSpec, passes: list[StageOutline]) -> tuple[StageOutline, ...]:
    wanted = {item.name: found for item in spec.passes if (found := _evaluator_of(spec, item))}
    of_input = _input_evaluations(spec, wanted.values())
    stages = list(of_input.values())
    target = spec.engine.target or spec.engine.host
    for stage in passes:
        stages.append(stage)
        evaluator = wanted.get(stage.name)
        if evaluator is not None and stage.output is not None:
            inputs: dict[Role, str] = {stage.output: stage.name}
            if evaluator.compares and evaluator.name in of_input:
                inputs["reference"] = of_input[evaluator.name].name
            base = stage.output == "adapter"
            stages.append(_evaluation(f"evaluate-{stage.name}", evaluator, inputs, base, target))
    return tuple(stages)


def _input_evaluations(spec: JobSpec, wanted: Iterable[Evaluator]) -> dict[str, StageOutline]:
    """By evaluator, the stage that measures the input model: the engine's, and every one with a goal beside it.

    Nothing but the model, the data and what is measured is in their configs, so that later jobs reuse them.
    """
    if not spec.engine.evaluate_input_model:
        return {}
    target = spec.engine.target or spec.engine.host
    engine = spec.engine.evaluator
    found = {engine: _evaluators(spec)[engine]} if engine else {}
    found |= {evaluator.name: evaluator for evaluator in wanted if evaluator.compares}
    return {
        name: _evaluation(
            INPUT_EVALUATION if name == engine else f"{INPUT_EVALUATION}-{name}",
            evaluator.without_goals(),
            {},
            True,
            target,
            base_adapter=spec.input_model.adapter_path is not None,
        )
        for name, evaluator in found.items()
    }


def _evaluation(
    name: str,
    evaluator: Evaluator,
    inputs: dict[Role, str],
    base: bool,
    target: str | None,
    *,
    base_adapter: bool = False,
) -> StageOutline:
    return StageOutline(
        name,
        "Evaluate",
        evaluator,
        inputs,
        base=base,
        base_adapter=base_adapter,
        data=evaluator.data,
        system=target,
    )
