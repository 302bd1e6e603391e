"""What a spec amounts to: its stages in order, what each takes in, and where each runs.

Operator and trainer both read this, so that prepare can compute the content key of every stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from finetune_api.base import Model
from finetune_api.builder import ModelBuilderConfig
from finetune_api.evaluators import Evaluator
from finetune_api.job import JobSpec
from finetune_api.lora import LoraConfig
from finetune_api.passes import ADAPTER_PASSES, LoraPass, MergePass, Pass, QLoraPass

PREPARE = "prepare"
PUBLISH = "publish"
Role = Literal["adapter", "model", "onnx"]


@dataclass(frozen=True)
class StageOutline:
    """One stage of a job.

    `inputs` names the upstream stage that gives each role; `base` says that the job's input model is read too.
    """

    name: str
    type: str
    config: Model
    inputs: dict[Role, str] = field(default_factory=dict)
    base: bool = False
    data: tuple[str, ...] = ()
    system: str | None = None
    output: Role | None = None

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
        stages.append(stage)
        if stage.output == "adapter":
            current = {"adapter": stage.name}
        elif stage.output is not None:
            current = {stage.output: stage.name}
    return _with_evaluations(spec, stages)


def _pass_stage(spec: JobSpec, item: Pass, current: dict[Role, str]) -> StageOutline:
    system = item.host or spec.engine.host
    if isinstance(item, LoraPass | QLoraPass):
        data = [item.config.train_data_config]
        if item.config.eval_data_config:
            data.append(item.config.eval_data_config)
        return StageOutline(
            item.name, item.type, item.config, base=True, data=tuple(data), system=system, output="adapter"
        )
    if isinstance(item, MergePass):
        return StageOutline(item.name, item.type, item.config, dict(current), base=True, system=system, output="model")
    # The check of the ONNX model reads the texts that the model was trained on, else any that the job names.
    return StageOutline(
        item.name,
        item.type,
        item.config,
        dict(current),
        base="model" not in current,
        data=_checked_data(spec),
        system=system,
        output="onnx",
    )


def _checked_data(spec: JobSpec) -> tuple[str, ...]:
    names = [item.config.train_data_config for item in spec.passes if isinstance(item.config, LoraConfig)]
    return tuple(dict.fromkeys(names or [config.name for config in spec.data_configs]))


def _with_evaluations(spec: JobSpec, passes: list[StageOutline]) -> tuple[StageOutline, ...]:
    evaluators = {evaluator.name: evaluator for evaluator in spec.evaluators}
    target = spec.engine.target or spec.engine.host
    wanted: dict[str, str] = {item.name: item.evaluator for item in spec.passes if item.evaluator}
    before: list[StageOutline] = []
    if spec.engine.evaluator:
        wanted.setdefault(spec.passes[-1].name, spec.engine.evaluator)
        if spec.engine.evaluate_input_model:
            before.append(_evaluation("evaluate-input", evaluators[spec.engine.evaluator], {}, True, target))
    stages = list(before)
    for stage in passes:
        stages.append(stage)
        if stage.name in wanted and stage.output is not None:
            inputs: dict[Role, str] = {stage.output: stage.name}
            stages.append(
                _evaluation(
                    f"evaluate-{stage.name}",
                    evaluators[wanted[stage.name]],
                    inputs,
                    stage.output == "adapter",
                    target,
                )
            )
    return tuple(stages)


def _evaluation(
    name: str, evaluator: Evaluator, inputs: dict[Role, str], base: bool, target: str | None
) -> StageOutline:
    data = tuple(dict.fromkeys(metric.data_config for metric in evaluator.metrics))
    return StageOutline(name, "Evaluate", evaluator, inputs, base=base, data=data, system=target)
