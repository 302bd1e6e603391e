"""`spec.dataConfigs[]`: what a job trains on and is measured with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Column, Model, Name

DataUri = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=1024, pattern=r"^(s3://[^/]+/.+|pvc://[^/]+/.+|configMap://[^/]+/[^/]+)$"
    ),
]
Strategy = Literal["line-by-line", "join"]


class LoadDatasetConfig(Model):
    """Which rows. Olive: `load_dataset_config`."""

    data_name: Literal["json"] = Field(
        "json", description="Format of the files: json (an array of objects, or one object per line)."
    )
    data_files: Annotated[list[DataUri], Field(min_length=1, max_length=64)] = Field(
        description="The files, in order: `s3://bucket/key`, `pvc://claim/path` or `configMap://name/key`."
    )
    split: Literal["train"] = Field("train", description="The split to take; files of rows have only train.")


class PreProcessDataConfig(Model):
    """How rows become samples of tokens. Olive: `pre_process_data_config`."""

    text_cols: Annotated[list[Column], Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda: ["text"],
        description="The columns that make a text; joined by a space where no textTemplate is given. The last one "
        "is the completion.",
    )
    text_template: Annotated[str, StringConstraints(min_length=1, max_length=8192)] | None = Field(
        None,
        description="A row's text, with `{column}` where a column's value stands; values are never expanded again.",
    )
    strategy: Strategy = Field(
        "line-by-line",
        description="line-by-line: every row is a sample. join: all rows one after the other, cut into blocks of "
        "maxSeqLen tokens; the last, shorter block is dropped. Olive: corpus_strategy, later strategy.",
    )
    max_seq_len: Annotated[int, Field(ge=8, le=1_048_576)] = Field(
        1024, description="Tokens of a sample at most; longer rows are cut. Olive: source_max_len."
    )
    joiner: Annotated[str, StringConstraints(max_length=64)] = Field(
        "", description="Text between two rows under join, after the first row's end-of-sequence token."
    )
    pad_to_max_len: bool = Field(False, description="Pad every sample to maxSeqLen; else to the longest of its batch.")
    use_attention_mask: bool = Field(
        True,
        description="Give the model a mask over padding; without one the padding is at the end and unattended.",
    )
    drop_short_sequences: bool = Field(False, description="Leave out rows shorter than maxSeqLen tokens.")
    add_special_tokens: bool = Field(
        True,
        description="Begin with the tokenizer's BOS token where its model has one, and end with EOS, once.",
    )
    max_samples: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Take only so many samples. Default: all."
    )
    completion_only_loss: bool = Field(
        False,
        description="Learn only the completion: the last textCols placeholder of textTemplate and all that follows "
        "it. Without it every token is learned. Ours; Olive's corpus mode has no such field.",
    )


class DataConfig(Model):
    """A named data set."""

    name: Name = Field(description="The name by which passes and evaluators refer to it.")
    type: Literal["HuggingfaceContainer"] = Field("HuggingfaceContainer", description="Olive's container type.")
    load_dataset_config: LoadDatasetConfig = Field(description="Which rows.")
    pre_process_data_config: PreProcessDataConfig = Field(
        default_factory=PreProcessDataConfig, description="How rows become samples."
    )
