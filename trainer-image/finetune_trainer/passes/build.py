"""ModelBuilder: a model in Hugging Face's layout → an ONNX model for onnxruntime-genai, and the proof of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from finetune_api.builder import PROVIDERS_OF, ModelBuilderConfig
from finetune_api.evaluators import Evaluator
from finetune_api.problems import problem
from finetune_api.stage import Reason, Verified
from finetune_trainer.context import PassOutput, Row, StageContext
from finetune_trainer.data import render
from finetune_trainer.errors import bad_input
from finetune_trainer.evaluation.questions import RowReader
from finetune_trainer.genai import runnable
from finetune_trainer.onnx_check import check_onnx
from finetune_trainer.onnx_reference import BUILTIN_TEXTS, Reference
from finetune_trainer.onnx_structure import STAND_IN, check_structure
from finetune_trainer.reporting.card import NAME as CARD
from finetune_trainer.reporting.onnx_card import onnx_card
from finetune_trainer.tokenizer import TextTokenizer, load_tokenizer

# All rows of most jobs; the tokens of many more would not fit into memory beside the model.
_MOST_CHARACTERS = 16 << 20


def run(context: StageContext) -> PassOutput:
    """Builds the ONNX model into `context.output`, and leaves the check's reference in `context.scratch`."""
    from finetune_trainer.source_scores import make_reference  # noqa: PLC0415  (torch: `check` does without)

    config = ModelBuilderConfig.model_validate(context.document.config)
    source = source_model(context)
    path = f"spec.passes[name={context.document.stage}].config"
    require_provider(config, path)
    context.report.progress(activity="scoring source model")
    adapter = context.inputs.get("adapter")
    reference = make_reference(source, context.load_kwargs, reference_texts(context, load_tokenizer(source)), adapter)
    reference.write(context.scratch)
    context.report.log(f"source perplexity {reference.perplexity:.4g} on {len(reference.scored)} texts")
    return PassOutput(_build_all(context, source, config))


def check(context: StageContext) -> dict[str, float]:
    """Figures of the built model; raises StageFailure (OnnxDiverged) where it is not its source's equal."""
    config = ModelBuilderConfig.model_validate(context.document.config)
    if config.stand_in() is not None:
        check_structure(context.output, config.execution_provider)
        context.report.log(f"structure verified; not run on {config.execution_provider}")
    figures = check_onnx(runnable(context.output), Reference.read(context.scratch), config, context.report.log)
    (context.output / CARD).write_text(onnx_card(context, config, figures), encoding="utf-8")
    return figures


def verified(context: StageContext) -> Verified:
    """How the output was verified: by running it, or by its structure where no pod has its execution provider."""
    config = ModelBuilderConfig.model_validate(context.document.config)
    return "execution" if config.stand_in() is None else "structure"


def source_model(context: StageContext) -> Path:
    """The folder that is built from: an upstream pass's model, else the job's input model, adapter or not."""
    return context.inputs.get("model") or context.input_model()[0]


def require_provider(config: ModelBuilderConfig, path: str) -> None:
    """Raises StageFailure (Unsupported) where the model could be built, but not run here."""
    import torch  # noqa: PLC0415  (torch or seconds of imports: `check` does without)

    provider = config.execution_provider
    if provider not in PROVIDERS_OF[config.precision]:
        message = f"the {provider} execution provider cannot load {config.precision}"
        remedy = f"Use int4, or executionProvider {' or '.join(PROVIDERS_OF[config.precision])}."
        raise bad_input(Reason.UNSUPPORTED, problem(f"{path}.precision", config.precision, message, remedy))
    if config.execution_provider == "cuda" and not torch.cuda.is_available():
        message = "this pod has no GPU, and a model counts only after it ran on its own execution provider"
        remedy = "Give the pass a system with a GPU (passes[].host), or use cpu."
        field = f"{path}.executionProvider"
        raise bad_input(Reason.UNSUPPORTED, problem(field, config.execution_provider, message, remedy))


def reference_texts(context: StageContext, tokenizer: TextTokenizer) -> list[str]:
    """The texts that tokenizer and model are compared on: the job's rendered samples, each once, or built-in ones.

    Samples of a character or none have nothing to predict. At most so many that their characters stay bounded.
    """
    texts: dict[str, None] = {}
    characters = 0
    for source in context.document.data:
        process = source.pre_process_data_config
        rows = _known_rows(context, source.name, tokenizer)
        for sample in render(rows, process, name=source.name, tokenizer=tokenizer):
            if len(sample.text) > 1 and sample.text not in texts:
                texts[sample.text] = None
                characters += len(sample.text)
            if characters > _MOST_CHARACTERS:
                return list(texts)
    return list(texts) or list(BUILTIN_TEXTS)


def _known_rows(context: StageContext, name: str, tokenizer: TextTokenizer) -> Iterable[Row]:
    """A data config's rows; of one that is measured later, where a quantization is chosen, the validation rows."""
    evaluator = Evaluator.model_validate(context.document.evaluator) if context.document.evaluator else None
    if evaluator is None or name not in evaluator.data:
        return context.rows(name)
    return RowReader(context, evaluator, tokenizer, validation=True).rows(name)


def _build_all(context: StageContext, source: Path, config: ModelBuilderConfig) -> dict[str, float]:
    """The model in `context.output`, and beside it the one that is run where no pod has its provider."""
    figures: dict[str, float] = {}
    if config.chooses:
        figures = _choose(context, source, config)
    else:
        context.report.progress(activity="building ONNX model")
        _build(context, source, context.output, config)
    folders = [context.output]
    stand_in = config.stand_in()
    if stand_in is not None:
        provider = config.execution_provider
        context.report.log(f"no pod has {provider}: a {stand_in.precision} build for cpu is run instead")
        folders.append(context.output / STAND_IN)
        _build(context, source, folders[-1], stand_in)
    _add_stop_tokens(context, source, folders)
    return figures


def _add_stop_tokens(context: StageContext, source: Path, folders: list[Path]) -> None:
    from finetune_trainer.chat_stop import add_stop_tokens  # noqa: PLC0415  (transformers: `check` does without)

    for folder in folders:
        ids = add_stop_tokens(source, folder, remote_code=context.load_kwargs.trust_remote_code)
        context.report.log(f"answers end at the tokens {ids}")


def _choose(context: StageContext, source: Path, config: ModelBuilderConfig) -> dict[str, float]:
    from finetune_trainer.int4_choice import choose  # noqa: PLC0415  (onnxruntime, which comes after torch)

    return choose(context, source, config, lambda folder, chosen: _build(context, source, folder, chosen))


def _build(context: StageContext, source: Path, output: Path, config: ModelBuilderConfig) -> None:
    from finetune_trainer.model_builder import (  # noqa: PLC0415  (seconds of imports: `check` does without)
        NoSuchNodeError,
        build,
    )

    cache = context.scratch / "builder-cache"
    try:
        remote_code, adapter = context.load_kwargs.trust_remote_code, context.inputs.get("adapter")
        build(source, output, cache, config, remote_code=remote_code, adapter=adapter, level=context.report.level)
    except NoSuchNodeError as error:
        path = f"spec.passes[name={context.document.stage}].config.int4NodesToExclude"
        found = problem(path, None, str(error), "Name nodes as they are in model.onnx.")
        raise bad_input(Reason.UNSUPPORTED, found) from error
    except NotImplementedError as error:
        path, message = "spec.inputModel.modelPath", f"onnxruntime-genai's builder does not know it: {error}"
        remedy = "Use an architecture that onnxruntime-genai supports (Phi, Llama, Mistral, Qwen, Gemma, …)."
        value = context.document.input_model.model_path if context.document.input_model else source.name
        raise bad_input(Reason.UNSUPPORTED, problem(path, value, message, remedy)) from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        path, message = f"spec.passes[name={context.document.stage}]", f"onnxruntime-genai's builder failed: {error!r}"
        remedy = "Leave out search and the int4 options to use its defaults; its own output is in the pod's log."
        raise bad_input(Reason.UNSUPPORTED, problem(path, config.precision, message, remedy)) from error
    size = sum(file.stat().st_size for file in output.iterdir())
    context.report.log(f"{config.precision} model for {config.execution_provider}: {size / 1e6:.1f} MB")
