"""Rules of passes: their order, and what cannot be combined."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from finetune_api.builder import BLOCKWISE, PROVIDERS_OF, Provider, SearchOptions
from finetune_api.job import JobSpec
from finetune_api.lora import ALL_LINEAR, LoraConfig
from finetune_api.passes import ADAPTER_PASSES, MergeConfig, ModelBuilderPass
from finetune_api.problems import Problem, problem


def order_of_passes(spec: JobSpec) -> Iterator[Problem]:
    """An adapter is merged before it is built, once, and nothing follows the ONNX model."""
    adapter: str | None = "inputModel.adapterPath" if spec.input_model.adapter_path else None
    finished: str | None = None
    trained = merged = dora = False
    for index, item in enumerate(spec.passes):
        path = f"spec.passes[{index}]"
        if finished:
            yield problem(path, item.name, f"follows {finished}, whose ONNX model is final", "Put ModelBuilder last.")
        if item.type in ADAPTER_PASSES:
            if trained:
                yield problem(path, item.name, "a second fine-tuning pass", "Use one job for each.")
            elif merged:
                remedy = "Use one job for each: the second one's modelPath is the first one's merged model."
                yield problem(path, item.name, "trains on inputModel, from which a merge before it leads away", remedy)
            adapter, trained, dora = item.name, True, item.type == "DoRA"
        elif item.type == "MergeAdapterWeights":
            if adapter is None:
                remedy = "Put LoRA, QLoRA or DoRA before it" + ("." if merged else ", or give inputModel.adapterPath.")
                yield problem(path, item.name, "no adapter to merge", remedy)
            adapter, merged = None, True
        elif isinstance(item, ModelBuilderPass):
            unmerged = item.config.adapter == "unmerged"
            if adapter is not None and not unmerged:
                yield problem(
                    path,
                    item.name,
                    f"the adapter of {adapter} is not merged",
                    "Put MergeAdapterWeights between them.",
                )
            elif unmerged and dora:
                message = "DoRA's magnitudes are no nodes that the builder can put beside the base's"
                yield problem(f"{path}.config.adapter", "unmerged", message, "Put MergeAdapterWeights between them.")
            elif adapter is None and unmerged:
                yield problem(f"{path}.config.adapter", "unmerged", "no adapter that is not merged", "Remove it.")
            finished = item.name


def merged_base(spec: JobSpec) -> Iterator[Problem]:
    """Only QLoRA's base has a dequantized form."""
    trained = [item for item in spec.passes if item.type in ADAPTER_PASSES]
    for index, item in enumerate(spec.passes):
        if isinstance(item.config, MergeConfig) and item.config.base_weights == "dequantized":
            for other in trained:
                if other.type != "QLoRA":
                    path = f"spec.passes[{index}].config.baseWeights"
                    yield problem(path, "dequantized", f"{other.name} is no QLoRA pass", "Use original.")


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
        if not isinstance(item.config, LoraConfig):
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


def adapted_modules(spec: JobSpec) -> Iterator[Problem]:
    """Names of modules mean one thing each, and patterns of names are regular expressions."""
    for index, item in enumerate(spec.passes):
        if not isinstance(item.config, LoraConfig):
            continue
        config, path = item.config, f"spec.passes[{index}].config"
        if config.sharding == "fsdp" and (item.type == "DoRA" or config.modules_to_save):
            what = "DoRA's magnitudes need" if item.type == "DoRA" else "modulesToSave needs"
            yield problem(f"{path}.sharding", "fsdp", f"{what} whole weights", "Use none, or LoRA or QLoRA alone.")
        targets = config.target_modules or []
        if ALL_LINEAR in targets and len(targets) > 1:
            others = ", ".join(name for name in targets if name != ALL_LINEAR)
            yield problem(f"{path}.targetModules", ALL_LINEAR, f"means {others} too", "Let it stand alone.")
        for name in sorted(set(targets) & set(config.modules_to_save or [])):
            message = "is in targetModules too, and cannot be both trained whole and adapted"
            yield problem(f"{path}.modulesToSave", name, message, "Keep one.")
        for field, patterns in (("rankPattern", config.rank_pattern), ("alphaPattern", config.alpha_pattern)):
            for pattern in patterns:
                fault = _fault_of(pattern)
                if fault:
                    remedy = "Write the end of a module's name, such as layers.0.self_attn.o_proj."
                    yield problem(f"{path}.{field}", pattern, f"no regular expression: {fault}", remedy)


def _fault_of(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""


RULES = (order_of_passes, merged_base, builder_combinations, evaluation_splits, adapted_modules)
