"""The rows that a pass learns from, as samples of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.data import DataConfig, PreProcessDataConfig
from finetune_api.lora import LoraConfig
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.context import Row, StageContext
from finetune_trainer.data import Tokens, arrange, render, split_rows, tokenize
from finetune_trainer.errors import bad_input
from finetune_trainer.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Samples:
    """What is learned, what is only measured, and how both were made."""

    train: list[Tokens]
    held_out: list[Tokens]
    process: PreProcessDataConfig


def read_samples(context: StageContext, config: LoraConfig, tokenizer: TextTokenizer) -> Samples:
    """The samples of the pass's data configs. Raises StageFailure (NoSamples) where nothing is left to learn."""
    configs = {item.name: item for item in context.document.data}
    source = configs[config.train_data_config]
    rows, held_out = context.rows(source.name), []
    if config.eval_dataset_size is not None:
        args = config.training_args
        seed = args.seed if args.data_seed is None else args.data_seed
        path = f"spec.passes[name={context.document.stage}].config.evalDatasetSize"
        process = source.pre_process_data_config
        rows, split_off = split_rows(rows, config.eval_dataset_size, seed, process, path=path)
        held_out = _tokens(split_off, source, tokenizer)
    elif config.eval_data_config:
        held_out = _tokens(context.rows(config.eval_data_config), configs[config.eval_data_config], tokenizer)
    train = _tokens(rows, source, tokenizer)
    if not train:
        raise bad_input(
            Reason.NO_SAMPLES,
            problem(
                f"spec.dataConfigs[name={source.name}].preProcessDataConfig.maxSeqLen",
                source.pre_process_data_config.max_seq_len,
                f"none of {len(rows)} rows leaves a token to learn",
                "Raise it, so that completions are not cut off; under join, lower it below the data's length.",
            ),
        )
    return Samples(train, held_out, source.pre_process_data_config)


def _tokens(rows: list[Row], source: DataConfig, tokenizer: TextTokenizer) -> list[Tokens]:
    process = source.pre_process_data_config
    return arrange(tokenize(render(rows, process, name=source.name), tokenizer, process), process, tokenizer)
