"""Rules of names: each its own, none reserved, and every reference to something that is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from finetune_api.job import JobSpec
from finetune_api.lora import LoraConfig
from finetune_api.outline import PREPARE, PUBLISH
from finetune_api.problems import Problem, problem

RESERVED_NAMES = (PREPARE, PUBLISH)
RESERVED_PREFIXES = ("evaluate-", "probe-")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def unique_names(spec: JobSpec) -> Iterator[Problem]:
    """No two items of a list have one name."""
    lists: dict[str, Sequence[_Named]] = {
        "passes": spec.passes,
        "dataConfigs": spec.data_configs,
        "systems": spec.systems,
        "evaluators": spec.evaluators,
        "publishTargets": spec.publish_targets,
        **{f"evaluators[{index}].metrics": item.metrics for index, item in enumerate(spec.evaluators)},
    }
    for field, items in lists.items():
        for name, count in Counter(item.name for item in items).items():
            if count > 1:
                yield problem(f"spec.{field}", name, f"{count} items have this name", "Give each its own.")


def reserved_names(spec: JobSpec) -> Iterator[Problem]:
    """Passes do not take the names of the stages that the operator adds."""
    for index, item in enumerate(spec.passes):
        if item.name in RESERVED_NAMES or item.name.startswith(RESERVED_PREFIXES):
            yield problem(
                f"spec.passes[{index}].name",
                item.name,
                "reserved for a stage of the operator",
                "Choose another name.",
            )


def references(spec: JobSpec) -> Iterator[Problem]:
    """Every name that refers to something refers to something that is there."""
    systems = [system.name for system in spec.systems]
    evaluators = [evaluator.name for evaluator in spec.evaluators]
    data = [config.name for config in spec.data_configs]
    yield from _known("spec.engine.host", spec.engine.host, systems, "systems")
    yield from _known("spec.engine.target", spec.engine.target, systems, "systems")
    yield from _known("spec.engine.evaluator", spec.engine.evaluator, evaluators, "evaluators")
    for index, item in enumerate(spec.passes):
        path = f"spec.passes[{index}]"
        yield from _known(f"{path}.host", item.host, systems, "systems")
        yield from _known(f"{path}.evaluator", item.evaluator, evaluators, "evaluators")
        if isinstance(item.config, LoraConfig):
            yield from _known(f"{path}.config.trainDataConfig", item.config.train_data_config, data, "dataConfigs")
            yield from _known(f"{path}.config.evalDataConfig", item.config.eval_data_config, data, "dataConfigs")
    for index, evaluator in enumerate(spec.evaluators):
        for place, metric in enumerate(evaluator.metrics):
            path = f"spec.evaluators[{index}].metrics[{place}].dataConfig"
            yield from _known(path, metric.data_config, data, "dataConfigs")


def references_to_the_platform(spec: JobSpec) -> Iterator[Problem]:
    """A system is the platform's or the job's own, never a mixture that says two things."""
    for index, system in enumerate(spec.systems):
        beside = sorted(system.model_fields_set - {"name", "system_ref"})
        if system.system_ref is not None and beside:
            names = ", ".join(str(type(system).model_fields[field].alias) for field in beside)
            yield problem(
                f"spec.systems[{index}].systemRef",
                system.system_ref,
                f"{names} beside it",
                "Keep name and systemRef alone: the FinetunePolicy says the rest.",
            )


def _known(path: str, name: str | None, known: list[str], field: str) -> Iterator[Problem]:
    if name is not None and name not in known:
        there = f"There: {', '.join(known)}." if known else f"spec.{field} is empty."
        yield problem(path, name, f"spec.{field} has no item of this name", there)


RULES = (unique_names, reserved_names, references, references_to_the_platform)
