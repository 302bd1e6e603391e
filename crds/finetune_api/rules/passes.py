"""Rules of passes: their order, and what cannot be combined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune_api.builder import BLOCKWISE, PROVIDERS_OF, Provider, SearchOptions
from finetune_api.job import JobSpec
from finetune_api.passes import ADAPTER_PASSES, LoraPass, ModelBuilderPass, QLoraPass
from finetune_api.problems import Problem, problem


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
            unmerged = item.config.adapter == "unmerged"
            if adapter is not None and not unmerged:
                yield problem(
                    path,
                    item.name,
                    f"the adapter of {adapter} is not merged",
                    "Put MergeAdapterWeights between them.",
                )
            elif adapter is None and unmerged:
                yield problem(f"{path}.config.adapter", "unmerged", "no adapter that is not merged", "Remove it.")
            finished = item.name


def builder_combinations(spec: JobSpec) -> Iterator[Problem]:
    """Combinations that build and then do not load."""
    for index, item in enumerate(spec.passes):
        if not isinstance(item, ModelBuilderPass):
            continue
        path, config = f"spec.passes[{index}].config", item.config
        precision, provider = config.precision, config.execution_provider
        if provider not in PROVIDERS_OF[precision]:
            yield problem(
                f"{path}.precision",
                precision,
                f"the {provider} execution provider cannot load {precision}",
                f"Use {_either(_precisions_of(provider))}, or executionProvider {_either(PROVIDERS_OF[precision])}.",
            )
        for name, info in type(config).model_fields.items():
            if name.startswith("int4_") and precision not in BLOCKWISE and getattr(config, name) is not None:
                message = f"only for precision {_either(BLOCKWISE)}"
                yield problem(f"{path}.{info.alias}", getattr(config, name), message, "Remove it.")
        yield from _search(f"{path}.search", config.search or SearchOptions())


def _precisions_of(provider: Provider) -> list[str]:
    return [precision for precision, providers in PROVIDERS_OF.items() if provider in providers]


def _either(words: Sequence[str]) -> str:
    return " or ".join(words)


def _search(path: str, search: SearchOptions) -> Iterator[Problem]:
    """Search options that onnxruntime-genai refuses together, or of which one has no effect."""
    lowest, longest = search.min_length, search.max_length
    if lowest is not None and longest is not None and lowest > longest:
        yield problem(f"{path}.minLength", lowest, "more than maxLength", f"Use at most {longest}.")
    answers, beams = search.num_return_sequences, search.num_beams or 1
    if answers is not None and answers > beams:
        yield problem(f"{path}.numReturnSequences", answers, "more than numBeams", f"Use at most {beams}.")
    if search.do_sample and beams > 1:
        yield problem(f"{path}.numBeams", beams, "a beam search draws no tokens", "Remove it, or doSample.")


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


RULES = (order_of_passes, builder_combinations, evaluation_splits)
