"""`spec.dataConfigs[]`: what a job trains on and is measured with."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Column, Model, Name, NoEffect
from finetune_api.splits import NAME_PATTERN, PATTERN, parse_split

# A URI or, in a hub data set, a path in its repository.
DataUri = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=1024,
        pattern=r"^(s3://[^/]+/.+|pvc://[^/]+/.+|configMap://[^/]+/[^/]+|[^/:][^:]*)$",
    ),
]
DataName = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=193,
        pattern=r"^(json|csv|parquet|text|[A-Za-z0-9][-._A-Za-z0-9]*/[A-Za-z0-9][-._A-Za-z0-9]*)$",
    ),
]
SplitName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NAME_PATTERN)]
SplitExpression = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=PATTERN)]
DataFiles = Annotated[list[DataUri], Field(min_length=1, max_length=64)]
Strategy = Literal["pack", "line-by-line", "line-by-line-random", "join", "join-random", "join-sliding-window"]
FORMATS = ("json", "csv", "parquet", "text")
# The word in chatTemplate that means the template which the model's tokenizer brings.
TOKENIZERS_OWN = "tokenizer"
TRAIN = "train"


class SplitFiles(Model):
    """The files of one split."""

    split: SplitName = Field(description="The split's name, by which `split` refers to it.")
    files: DataFiles = Field(description="Its files, in order; as dataFiles.")


class LoadDatasetConfig(Model):
    """Which rows. Olive: `load_dataset_config`."""

    data_name: DataName = Field(
        "json",
        description="Format of the files: json (an array of objects, or one object per line), csv (the first line "
        "names the columns), parquet or text (a row per line that is not empty, in the column text); each as it is, "
        "with gzip or with zstd. Or a data set of the Hugging Face hub (`org/name`), of which files are read and "
        "code is never run.",
    )
    subset: Annotated[Annotated[str, StringConstraints(min_length=1, max_length=128)] | None, NoEffect()] = Field(
        None,
        description="Of a hub data set: the configuration that its card names. Default: its default one.",
    )
    data_files: Annotated[DataFiles | None, NoEffect()] = Field(
        None,
        description="The files of split train, in order: `s3://bucket/key`, `pvc://claim/path` or "
        "`configMap://name/key`, in each of which `*`, `?`, `[…]` and `**` stand for what there is, by name. Of a hub "
        "data set: paths in its repository. Default: none; splitFiles are given instead, or a hub data set's own.",
    )
    split_files: Annotated[list[SplitFiles] | None, NoEffect(), Field(min_length=1, max_length=16)] = Field(
        None,
        description="The files of each split, in the place of dataFiles. Olive: data_files as a map. Default: none.",
    )
    split: SplitExpression = Field(
        TRAIN,
        description="The rows to take, as the datasets library writes it: a split (train), a slice of one "
        "(train[:70%], train[100:200], train[-10%:]) or several, added (train+validation). Olive: split, validation "
        "where nothing is said.",
    )
    revision: Annotated[Annotated[str, StringConstraints(min_length=1, max_length=128)] | None, NoEffect()] = Field(
        None,
        description="Of a hub data set: the branch, tag or commit; the commit is pinned when the job is prepared. "
        "Default: main.",
    )
    col_filters: Annotated[dict[Column, Annotated[str, StringConstraints(max_length=1024)]], Field(max_length=16)] = (
        Field(
            default_factory=dict,
            description="Of the rows that split takes, only those whose columns have these values; numbers and truth "
            "values as JSON writes them.",
        )
    )

    # (rule, message, field): what the schema alone cannot say; `finetune_api.rules.data` says it again.
    cel: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("!has(self.dataFiles) || !has(self.splitFiles)", "give dataFiles or splitFiles, not both", ".splitFiles"),
        (
            "has(self.dataFiles) || has(self.splitFiles) || (has(self.dataName) && self.dataName.contains('/'))",
            "name files: dataFiles or splitFiles",
            ".dataFiles",
        ),
    )

    @property
    def is_hub(self) -> bool:
        """Whether the rows are a hub data set's."""
        return "/" in self.data_name

    def splits(self) -> dict[str, list[str]]:
        """Split → its files, as the spec names them; empty where a hub data set's own are meant."""
        if self.split_files is not None:
            return {item.split: item.files for item in self.split_files}
        return {} if self.data_files is None else {TRAIN: self.data_files}

    def taken(self) -> list[str]:
        """The names of the splits whose rows are taken, each once. Raises ValueError."""
        return list(dict.fromkeys(part.split for part in parse_split(self.split)))

    def uris(self) -> list[str]:
        """All files that the spec names."""
        return [uri for files in self.splits().values() for uri in files]

    def shown(self) -> str:
        """The files in words, for messages."""
        return ", ".join(self.uris()) or self.data_name


class PreProcessDataConfig(Model):
    """How rows become samples of tokens. Olive: `pre_process_data_config`."""

    text_cols: Annotated[list[Column], Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda: ["text"],
        description="The columns that make a text; joined by a space where no textTemplate is given. The last one "
        "is the completion.",
    )
    text_template: Annotated[str, StringConstraints(min_length=1, max_length=8192)] | None = Field(
        None,
        description="A row's text, with `{column}` where a column's value stands; values are never expanded again. "
        "Default: textCols, joined.",
    )
    chat_template: Annotated[str, StringConstraints(min_length=1, max_length=16384)] | None = Field(
        None,
        description="Makes a text of the chat in messageCol, in the place of textCols and textTemplate: a template in "
        "Jinja, as tokenizers have it, or `tokenizer` for the model's own. Olive: a template, or true. Default: rows "
        "are no chats.",
    )
    message_col: Column = Field(
        "messages",
        description="The column that holds a chat, under chatTemplate: a list of {role, content}, or of {from, value} "
        "as ShareGPT has it. The last answer of the assistant is the completion.",
    )
    strategy: Strategy = Field(
        "pack",
        description="pack: every row is a sample; whole samples share blocks of maxSeqLen tokens, positions begin at "
        "0 in each and none sees another. line-by-line: every row is a sample of its own. join: all rows one after "
        "the other, cut into blocks of maxSeqLen tokens; the last, shorter block is dropped. join-sliding-window: the "
        "same, a block every stride tokens, of which the last stride are learned. line-by-line-random and "
        "join-random: maxSamples rows, or blocks from the beginning of a row on, drawn by randomSeed. Olive: "
        "corpus_strategy, later strategy; pack is ours.",
    )
    max_seq_len: Annotated[int, Field(ge=8, le=1_048_576)] = Field(
        1024, description="Tokens of a sample or block at most; longer rows are cut. Olive: source_max_len."
    )
    stride: Annotated[int, Field(ge=1, le=1_048_576)] | None = Field(
        None, description="Tokens between the beginnings of two blocks under join-sliding-window. Default: none."
    )
    joiner: Annotated[str, StringConstraints(max_length=64)] = Field(
        "", description="Text between two rows under join and its kin, after the first row's end-of-sequence token."
    )
    pad_to_max_len: bool = Field(False, description="Pad every sample to maxSeqLen; else to the longest of its batch.")
    padding_side: Literal["right", "left"] = Field(
        "right", description="Where samples are padded; under pack always on the right."
    )
    use_attention_mask: bool = Field(
        True,
        description="Give the model a mask over padding; without one the padding is at the end and unattended.",
    )
    drop_short_sequences: bool = Field(
        False, description="Leave out rows shorter than maxSeqLen tokens, under line-by-line and line-by-line-random."
    )
    add_special_tokens: bool = Field(
        True,
        description="Begin with the tokenizer's BOS token where its model has one, and end with EOS, once.",
    )
    max_samples: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Take only so many samples: rows, or blocks under join and its kin. Default: all.",
    )
    random_seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = Field(
        None, description="Seed of what the random strategies draw. Default: none."
    )
    random_retries: Annotated[int, Field(ge=1, le=1000)] = Field(
        10, description="How often a random strategy draws again where what it drew is too short."
    )
    completion_only_loss: bool = Field(
        False,
        description="Learn only the completion: the last textCols placeholder of textTemplate and all that follows "
        "it; in chats all that the assistant says. Without it every token is learned. Ours; Olive's corpus mode has "
        "no such field.",
    )

    # (rule, message, field): what the schema alone cannot say; `finetune_api.rules.data` says it again.
    cel: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (
            "!(has(self.strategy) && self.strategy == 'join-sliding-window') || has(self.stride)",
            "strategy join-sliding-window needs stride",
            ".stride",
        ),
        (
            "!(has(self.strategy) && self.strategy in ['line-by-line-random', 'join-random']) || "
            "(has(self.maxSamples) && has(self.randomSeed))",
            "random strategies need maxSamples and randomSeed",
            ".strategy",
        ),
        (
            "!(has(self.chatTemplate) && has(self.textTemplate))",
            "give chatTemplate or textTemplate, not both",
            ".textTemplate",
        ),
    )

    @property
    def is_chat(self) -> bool:
        """Whether rows hold chats."""
        return self.chat_template is not None

    @property
    def joins(self) -> bool:
        """Whether rows are one stream, cut into blocks."""
        return self.strategy.startswith("join")

    def columns(self) -> list[str]:
        """The columns that a row's text is made of."""
        return [self.message_col] if self.is_chat else self.text_cols


class DataConfig(Model):
    """A named data set."""

    name: Name = Field(description="The name by which passes and evaluators refer to it.")
    type: Literal["HuggingfaceContainer"] = Field("HuggingfaceContainer", description="Olive's container type.")
    load_dataset_config: LoadDatasetConfig = Field(description="Which rows.")
    pre_process_data_config: PreProcessDataConfig = Field(
        default_factory=PreProcessDataConfig, description="How rows become samples."
    )
