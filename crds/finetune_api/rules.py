"""Every rule that a spec must keep, found out at once: the schema's, and those between fields.

Each rule names its path and what to write instead. What a schema or CEL can say is in the CRD too
(`finetune_api.crd`), so that the API server refuses it; here it is said again for those who ask offline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from string import Formatter
from typing import Any, Protocol

from pydantic import ValidationError

from finetune_api.data import DataConfig
from finetune_api.job import JobSpec
from finetune_api.outline import PREPARE, PUBLISH
from finetune_api.passes import ADAPTER_PASSES, LoraConfig, LoraPass, ModelBuilderPass, QLoraPass
from finetune_api.problems import Problem, problem
from finetune_api.schema_problems import schema_problems


class _Named(Protocol):
    @property
    def name(self) -> str: ...


# A stage document holds the spec and once more its data configs, escaped as JSON within JSON at the worst.
MAX_SPEC_BYTES = 32 * 1024
RESERVED_NAMES = (PREPARE, PUBLISH)
RESERVED_PREFIXES = ("evaluate-", "probe-")


def check(spec: Mapping[str, Any]) -> tuple[JobSpec | None, list[Problem]]:
    """`spec` as its type, and all that is wrong with it.

    The spec is None where its shape is wrong, since the rules between fields cannot be asked then.
    """
    try:
        # As the API server reads it: one spelling, since Python's, which is Olive's too, would be dropped there; and
        # no conversion, since "64" is no integer there.
        parsed = JobSpec.model_validate(spec, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        return None, schema_problems(error, JobSpec, spec, "spec")
    return parsed, [found for rule in RULES for found in rule(parsed)]


def unique_names(spec: JobSpec) -> Iterator[Problem]:
    """No two items of a list have one name."""
    lists: dict[str, Sequence[_Named]] = {
        "passes": spec.passes,
        "dataConfigs": spec.data_configs,
        "systems": spec.systems,
        "evaluators": spec.evaluators,
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


def _known(path: str, name: str | None, known: list[str], field: str) -> Iterator[Problem]:
    if name is not None and name not in known:
        there = f"There: {', '.join(known)}." if known else f"spec.{field} is empty."
        yield problem(path, name, f"spec.{field} has no item of this name", there)


def order_of_passes(spec: JobSpec) -> Iterator[Problem]:
    """An adapter is merged before it is built, once, and nothing follows the ONNX model."""
    adapter: str | None = None
    finished: str | None = None
    trained = False
    for index, item in enumerate(spec.passes):
        path = f"spec.passes[{index}]"
        if finished:
            yield problem(path, item.name, f"follows {finished}, whose ONNX model is final", "Put ModelBuilder last.")
        if item.type in ADAPTER_PASSES:
            if trained:
                yield problem(path, item.name, "a second fine-tuning pass", "Use one job for each.")
            adapter, trained = item.name, True
        elif item.type == "MergeAdapterWeights":
            if adapter is None:
                yield problem(path, item.name, "no adapter to merge", "Put LoRA or QLoRA before it.")
            adapter = None
        elif isinstance(item, ModelBuilderPass):
            if adapter is not None:
                yield problem(
                    path,
                    item.name,
                    f"the adapter of {adapter} is not merged",
                    "Put MergeAdapterWeights between them.",
                )
            finished = item.name


def builder_combinations(spec: JobSpec) -> Iterator[Problem]:
    """Combinations that build and then do not load."""
    for index, item in enumerate(spec.passes):
        if not isinstance(item, ModelBuilderPass):
            continue
        path, config = f"spec.passes[{index}].config", item.config
        if config.precision == "fp16" and config.execution_provider == "cpu":
            yield problem(
                f"{path}.precision",
                "fp16",
                "the cpu execution provider cannot load fp16",
                "Use int4 or fp32, or cuda.",
            )
        int4_only = ("int4_block_size", "int4_accuracy_level", "int4_is_symmetric", "int4_algo_config")
        for name in int4_only:
            if config.precision != "int4" and getattr(config, name) is not None:
                alias = type(config).model_fields[name].alias
                yield problem(f"{path}.{alias}", getattr(config, name), "only for precision int4", "Remove it.")


def templates(spec: JobSpec) -> Iterator[Problem]:
    """A template can be read, and its columns are those of textCols."""
    for index, config in enumerate(spec.data_configs):
        path = f"spec.dataConfigs[{index}].preProcessDataConfig"
        template = config.pre_process_data_config.text_template
        if template is None:
            continue
        try:
            columns = template_columns(template)
        except ValueError as error:
            yield problem(f"{path}.textTemplate", template, str(error), "Write {{ and }} for braces that are meant.")
            continue
        yield from _template_columns(f"{path}", config, columns)


def _template_columns(path: str, config: DataConfig, columns: list[str]) -> Iterator[Problem]:
    declared = config.pre_process_data_config.text_cols
    for column in columns:
        if column not in declared:
            yield problem(
                f"{path}.textTemplate",
                f"{{{column}}}",
                "this column is not in textCols",
                f"There: {', '.join(declared)}.",
            )
    if config.pre_process_data_config.completion_only_loss and declared[-1] not in columns:
        yield problem(
            f"{path}.textTemplate",
            declared[-1],
            "the completion, the last of textCols, has no placeholder",
            f"Add {{{declared[-1]}}} or set completionOnlyLoss to false.",
        )


def template_columns(template: str) -> list[str]:
    """The columns that `template` names, in order. Raises ValueError where it cannot be read."""
    columns: list[str] = []
    for _, column, form, conversion in Formatter().parse(template):
        if column is None:
            continue
        if form or conversion:
            raise ValueError(f"{{{column}}} has a format or a conversion, which templates do not know")
        if not column:
            raise ValueError("a placeholder without a column")
        columns.append(column)
    return columns


def completions(spec: JobSpec) -> Iterator[Problem]:
    """Learning or measuring completions needs a prompt before them."""
    measured = {metric.data_config for evaluator in spec.evaluators for metric in evaluator.metrics}
    for index, config in enumerate(spec.data_configs):
        process = config.pre_process_data_config
        if len(process.text_cols) < 2 and (process.completion_only_loss or config.name in measured):
            yield problem(
                f"spec.dataConfigs[{index}].preProcessDataConfig.textCols",
                ", ".join(process.text_cols),
                "one column has no prompt and completion",
                "Name the prompt's columns first, the completion's last.",
            )


def evaluation_splits(spec: JobSpec) -> Iterator[Problem]:
    """Evaluating while training has rows to evaluate on, and one source of them."""
    for index, item in enumerate(spec.passes):
        if not isinstance(item, LoraPass | QLoraPass):
            continue
        config, path = item.config, f"spec.passes[{index}].config"
        if config.eval_data_config and config.eval_dataset_size is not None:
            yield problem(
                f"{path}.evalDatasetSize",
                config.eval_dataset_size,
                "evalDataConfig is given too",
                "Keep one.",
            )
        if config.training_args.eval_strategy != "no" and not (config.eval_data_config or config.eval_dataset_size):
            yield problem(
                f"{path}.trainingArgs.evalStrategy",
                config.training_args.eval_strategy,
                "there is nothing to evaluate on",
                "Give evalDatasetSize or evalDataConfig.",
            )
        size = config.eval_dataset_size
        if size is not None and size >= 1 and size != int(size):
            yield problem(f"{path}.evalDatasetSize", size, "neither a share below 1 nor a count", "Use a whole number.")


def size(spec: JobSpec) -> Iterator[Problem]:
    """A spec is small enough for a pod's environment, which Linux bounds at 128 KiB for each variable."""
    length = len(spec.model_dump_json(by_alias=True, exclude_none=True).encode())
    if length > MAX_SPEC_BYTES:
        yield problem(
            "spec",
            f"{length} bytes",
            f"larger than {MAX_SPEC_BYTES} bytes",
            "Name fewer files, or shorten templates.",
        )


Rule = Callable[[JobSpec], Iterator[Problem]]
RULES: tuple[Rule, ...] = (
    unique_names,
    reserved_names,
    references,
    order_of_passes,
    builder_combinations,
    templates,
    completions,
    evaluation_splits,
    size,
)
