"""The rows that a pass learns from, as samples of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune_api.data import DataConfig, PreProcessDataConfig
from finetune_api.lora import LoraConfig
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.context import StageContext
from finetune_trainer.data import TokenRows, Tokens, arrange, render, split_rows, tokenize
from finetune_trainer.errors import bad_input
from finetune_trainer.kept_tokens import Rows
from finetune_trainer.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Samples:
    """What is learned, what is only measured, and how both were made."""

    train: Sequence[Tokens]
    held_out: Sequence[Tokens]
    process: PreProcessDataConfig


def read_samples(context: StageContext, config: LoraConfig, tokenizer: TextTokenizer) -> Samples:
    """The samples of the pass's data configs. Raises StageFailure (NoSamples) where nothing is left to learn."""
    configs = {item.name: item for item in context.document.data}
    source = configs[config.train_data_config]
    process = source.pre_process_data_config
    rows = _tokens(context, source, tokenizer)
    chosen: npt.NDArray[np.int64] | None = None
    held_out: Sequence[Tokens] = ()
    if config.eval_dataset_size is not None:
        args = config.training_args
        seed = args.seed if args.data_seed is None else args.data_seed
        path = f"spec.passes[name={context.document.stage}].config.evalDatasetSize"
        chosen, split_off = split_rows(rows.hashes, config.eval_dataset_size, seed, path=path)
        held_out = arrange(rows, process, tokenizer, split_off)
    elif config.eval_data_config:
        measured = configs[config.eval_data_config]
        held_out = arrange(_tokens(context, measured, tokenizer), measured.pre_process_data_config, tokenizer)
    train = arrange(rows, process, tokenizer, chosen)
    if not train:
        raise bad_input(
            Reason.NO_SAMPLES,
            problem(
                f"spec.dataConfigs[name={source.name}].preProcessDataConfig.maxSeqLen",
                process.max_seq_len,
                f"none of {len(rows)} rows leaves a token to learn",
                "Raise it, so that completions are not cut off; under join, lower it below the data's length.",
            ),
        )
    return Samples(train, held_out, process)


def _tokens(context: StageContext, source: DataConfig, tokenizer: TextTokenizer) -> TokenRows:
    """The rows of `source` as tokens: as prepare or an earlier attempt kept them, else made here, and kept."""
    process, pins = source.pre_process_data_config, context.document.pins
    rows = Rows(source, pins.data[source.name].digest, tokenizer) if pins else None
    found = context.tokens.find(rows) if context.tokens and rows else None
    if found:
        return found
    rendered = render(context.rows(source.name), process, name=source.name, tokenizer=tokenizer)
    made = tokenize(rendered, tokenizer, process, context.scratch / "tokens")
    if context.tokens and rows and context.world.is_main:
        context.tokens.keep(rows, made)
    return made
