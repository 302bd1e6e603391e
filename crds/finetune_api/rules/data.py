"""Rules of data: templates, columns and completions."""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter

from finetune_api.data import FORMATS, DataConfig, LoadDatasetConfig, PreProcessDataConfig
from finetune_api.job import JobSpec
from finetune_api.problems import Problem, problem
from finetune_api.splits import parse_split

_URI_SCHEMES = ("s3://", "pvc://", "configMap://")


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
    """Learning or measuring completions needs a prompt before them; a chat always has one."""
    measured = {
        metric.data_config
        for evaluator in spec.evaluators
        for metric in evaluator.metrics
        if metric.type == "accuracy" or metric.loss_on == "completion"
    }
    for index, config in enumerate(spec.data_configs):
        process = config.pre_process_data_config
        if process.is_chat or len(process.text_cols) > 1:
            continue
        if process.completion_only_loss or config.name in measured:
            yield problem(
                f"spec.dataConfigs[{index}].preProcessDataConfig.textCols",
                ", ".join(process.text_cols),
                "one column has no prompt and completion",
                "Name the prompt's columns first, the completion's last.",
            )


def files(spec: JobSpec) -> Iterator[Problem]:
    """Every data config says where its rows are, and takes splits that it has."""
    for index, config in enumerate(spec.data_configs):
        yield from _files(f"spec.dataConfigs[{index}].loadDatasetConfig", config.load_dataset_config)


def _files(path: str, load: LoadDatasetConfig) -> Iterator[Problem]:
    if load.data_files is not None and load.split_files is not None:
        yield problem(f"{path}.splitFiles", None, "give dataFiles or splitFiles, not both", "Remove one of them.")
    if not load.is_hub and not load.uris():
        yield problem(f"{path}.dataFiles", None, "name files: dataFiles or splitFiles", "Add s3://bucket/key.")
    names = [item.split for item in load.split_files or []]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield problem(f"{path}.splitFiles", name, "this split is there twice", "Put its files into one list.")
    yield from _places(path, load)
    yield from _split(path, load)


def _places(path: str, load: LoadDatasetConfig) -> Iterator[Problem]:
    """Files of a hub data set are paths in its repository, all others URIs; only the hub has subsets and revisions."""
    for uri in load.uris():
        if load.is_hub == uri.startswith(_URI_SCHEMES):
            remedy = f"Set dataName to {', '.join(FORMATS)}." if load.is_hub else "Write s3://, pvc:// or configMap://."
            means = f"dataName {load.data_name} means paths in its repository" if load.is_hub else "not a URI"
            yield problem(f"{path}.dataFiles", uri, means, remedy)
        elif not load.is_hub and any(character in uri.split("/")[2] for character in "*?["):
            remedy = "Name the bucket or volume, and use wildcards after it."
            yield problem(f"{path}.dataFiles", uri, "wildcards stand for files, not for the place they are in", remedy)
    for field, value in (("subset", load.subset), ("revision", load.revision)):
        if value is not None and not load.is_hub:
            message = "only a hub data set has one"
            yield problem(f"{path}.{field}", value, message, "Remove it, or set dataName to the data set's id.")


def _split(path: str, load: LoadDatasetConfig) -> Iterator[Problem]:
    try:
        wanted = [part.split for part in parse_split(load.split)]
    except ValueError as error:
        yield problem(f"{path}.split", load.split, str(error), "Write it as in train[:70%] or train+validation.")
        return
    there = list(load.splits())
    for name in dict.fromkeys(wanted):
        if there and name not in there and not (load.is_hub and load.split_files is None):
            remedy = f"Take {', '.join(there)}, or name the split's files in splitFiles."
            yield problem(f"{path}.split", name, "no files are given for this split", remedy)


def strategies(spec: JobSpec) -> Iterator[Problem]:
    """A strategy has what it needs, and nothing is set that it does not read."""
    for index, config in enumerate(spec.data_configs):
        yield from _strategy(f"spec.dataConfigs[{index}].preProcessDataConfig", config.pre_process_data_config)


def _strategy(path: str, process: PreProcessDataConfig) -> Iterator[Problem]:
    strategy, draws = process.strategy, process.strategy.endswith("random")
    if strategy == "join-sliding-window" and process.stride is None:
        yield problem(f"{path}.stride", None, f"strategy {strategy} needs stride", "Add it, such as half of maxSeqLen.")
    if process.stride is not None and strategy != "join-sliding-window":
        yield problem(f"{path}.stride", process.stride, f"does nothing under {strategy}", "Remove it.")
    if process.stride is not None and process.stride > process.max_seq_len:
        remedy = f"Write at most {process.max_seq_len}."
        yield problem(f"{path}.stride", process.stride, "greater than maxSeqLen, so tokens would be left out", remedy)
    if draws and (process.max_samples is None or process.random_seed is None):
        yield problem(f"{path}.strategy", strategy, "random strategies need maxSamples and randomSeed", "Add them.")
    if process.random_seed is not None and not draws:
        yield problem(f"{path}.randomSeed", process.random_seed, f"does nothing under {strategy}", "Remove it.")
    if process.drop_short_sequences and not strategy.startswith("line-by-line"):
        remedy = "Remove it, or use strategy line-by-line."
        yield problem(f"{path}.dropShortSequences", True, f"does nothing under {strategy}", remedy)
    if process.padding_side == "left" and not process.use_attention_mask:
        remedy = "Set useAttentionMask to true, or pad on the right."
        yield problem(f"{path}.paddingSide", "left", "without a mask the model would read the padding", remedy)


def chats(spec: JobSpec) -> Iterator[Problem]:
    """A chat's text comes from one template."""
    for index, config in enumerate(spec.data_configs):
        process = config.pre_process_data_config
        if process.is_chat and process.text_template is not None:
            path = f"spec.dataConfigs[{index}].preProcessDataConfig.textTemplate"
            yield problem(path, process.text_template, "give chatTemplate or textTemplate, not both", "Remove one.")


RULES = (templates, completions, files, strategies, chats)
