"""Rules of evaluators: fields of their metric's type, goals with something to be judged by, and what auto needs."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_api.builder import NOT_RUN
from finetune_api.evaluators import METRIC_FIELDS, ROW_METRICS, Evaluator, Metric
from finetune_api.job import JobSpec
from finetune_api.passes import ModelBuilderPass
from finetune_api.problems import Problem, problem


def metric_fields(spec: JobSpec) -> Iterator[Problem]:
    """A metric has the fields of its type, and those about rows have a data config."""
    for index, evaluator in enumerate(spec.evaluators):
        for place, metric in enumerate(evaluator.metrics):
            path = f"spec.evaluators[{index}].metrics[{place}]"
            yield from _foreign_fields(path, metric)
            if metric.type in ROW_METRICS and metric.data_config is None:
                yield problem(
                    f"{path}.dataConfig",
                    None,
                    f"{metric.type} is about rows, and none are named",
                    "Name a data config.",
                )


def _foreign_fields(path: str, metric: Metric) -> Iterator[Problem]:
    every = frozenset().union(*METRIC_FIELDS.values())
    for name in sorted(every - METRIC_FIELDS[metric.type]):
        if getattr(metric, name) not in (None, []):
            types = ", ".join(kind for kind, names in METRIC_FIELDS.items() if name in names)
            alias = Metric.model_fields[name].alias
            yield problem(f"{path}.{alias}", getattr(metric, name), f"only for type {types}", "Remove it.")


def compared_goals(spec: JobSpec) -> Iterator[Problem]:
    """A goal beside the input model's figure needs that figure, so the input model is measured."""
    if spec.engine.evaluate_input_model:
        return
    used = _used(spec)
    for evaluator in spec.evaluators:
        if evaluator.name in used and evaluator.compares:
            yield problem(
                "spec.engine.evaluateInputModel",
                "false",
                f"a goal of evaluator {evaluator.name} compares with the input model",
                "Set it to true, or use a goal of type threshold.",
            )


def _used(spec: JobSpec) -> set[str]:
    return {name for name in (spec.engine.evaluator, *(item.evaluator for item in spec.passes)) if name}


def automatic_quantization(spec: JobSpec) -> Iterator[Problem]:
    """int4AlgoConfig auto has goals to choose by, and leaves the settings that it chooses alone."""
    evaluators = {item.name: item for item in spec.evaluators}
    for index, item in enumerate(spec.passes):
        if not isinstance(item, ModelBuilderPass):
            continue
        path = f"spec.passes[{index}].config"
        if not item.config.chooses:
            if item.config.max_tries is not None:
                yield problem(f"{path}.maxTries", item.config.max_tries, "only with int4AlgoConfig auto", "Remove it.")
            continue
        if item.config.execution_provider in NOT_RUN:
            provider = item.config.execution_provider
            yield problem(f"{path}.executionProvider", provider, "no try could be run on it", "Use cpu or cuda.")
        if item.config.int4_block_size is not None:
            yield problem(
                f"{path}.int4BlockSize", item.config.int4_block_size, "int4AlgoConfig auto chooses it", "Remove it."
            )
        name = item.evaluator or (spec.engine.evaluator if item is spec.passes[-1] else None)
        yield from _chooser(f"{path}.int4AlgoConfig", evaluators.get(name or ""))


def _chooser(path: str, evaluator: Evaluator | None) -> Iterator[Problem]:
    wanted = "Give accuracy or perplexity a goal of type max-degradation or percent-max-degradation."
    if evaluator is None:
        yield problem(path, "auto", "the pass has no evaluator to choose by", f"Set the pass's evaluator. {wanted}")
    elif not evaluator.chooses:
        yield problem(path, "auto", f"evaluator {evaluator.name} says nothing of how much may be lost", wanted)


RULES = (metric_fields, compared_goals, automatic_quantization)
