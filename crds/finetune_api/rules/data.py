"""Rules of data: templates, columns and completions."""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter

from finetune_api.data import DataConfig
from finetune_api.job import JobSpec
from finetune_api.problems import Problem, problem


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
    measured = {
        metric.data_config
        for evaluator in spec.evaluators
        for metric in evaluator.metrics
        if metric.type == "accuracy" or metric.loss_on == "completion"
    }
    for index, config in enumerate(spec.data_configs):
        process = config.pre_process_data_config
        if len(process.text_cols) < 2 and (process.completion_only_loss or config.name in measured):
            yield problem(
                f"spec.dataConfigs[{index}].preProcessDataConfig.textCols",
                ", ".join(process.text_cols),
                "one column has no prompt and completion",
                "Name the prompt's columns first, the completion's last.",
            )


RULES = (templates, completions)
