"""The proof that an ONNX model is its source: it runs, its tokenizer agrees, and it predicts the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_api.builder import ModelBuilderConfig
from finetune_api.stage import ExitCode, Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.genai import GenaiModel, losses_of
from finetune_trainer.generation import Limits
from finetune_trainer.onnx_reference import Reference, perplexity

_GENERATED_TOKENS = 8
_SHOWN = 80  # characters of a text in a message


@dataclass(frozen=True)
class Comparison:
    """How the ONNX model did on the reference's scored texts."""

    perplexity: float
    source_perplexity: float
    top1_agreement: float
    texts: int

    @property
    def ratio(self) -> float:
        """The ONNX model's perplexity over its source's."""
        return self.perplexity / self.source_perplexity


def check_onnx(
    folder: Path, reference: Reference, config: ModelBuilderConfig, log: Callable[[str], None]
) -> dict[str, float]:
    """Figures of the model in `folder`, held to `reference`.

    Raises StageFailure (OnnxDiverged) where the model does not load or run, where onnxruntime-genai's tokenizer
    gives other ids, or where perplexity or top-1 agreement are beyond what `config` allows.
    """
    try:
        model = GenaiModel(folder)
        log(f"onnxruntime-genai loaded the model and generated {_generate(model, reference)} tokens")
        _compare_tokenizers(model, reference)
        log(f"its tokenizer gives the source's ids on {len(reference.tokenized)} texts")
        found = compare(model, reference)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise _diverged(f"onnxruntime-genai cannot load or run the model: {str(error)[:300]}") from error
    log(
        f"perplexity {found.perplexity:.4g}, source {found.source_perplexity:.4g}, ratio {found.ratio:.4f}; "
        f"top-1 agreement {found.top1_agreement:.4f} on {found.texts} texts"
    )
    _require_close(found, config)
    return {
        "perplexity": found.perplexity,
        "source_perplexity": found.source_perplexity,
        "perplexity_ratio": found.ratio,
        "top1_agreement": found.top1_agreement,
        "texts": float(found.texts),
    }


def _generate(model: GenaiModel, reference: Reference) -> int:
    """Continues the first half of a text, and returns by how many tokens, an end token counted too."""
    limits = Limits(_GENERATED_TOKENS, frozenset(), lambda ids: False)
    ids = reference.scored[0].ids
    prompt = ids[: min(len(ids) // 2, model.context_length - _GENERATED_TOKENS)]
    [(_, answer)] = model.generate([prompt], limits)
    if not answer:
        raise _diverged("the model generated nothing")
    return len(answer)


def _compare_tokenizers(model: GenaiModel, reference: Reference) -> None:
    for number, item in enumerate(reference.tokenized, start=1):
        ids = model.encode(item.text)
        if ids != item.ids:
            place = next((i for i, (a, b) in enumerate(zip(ids, item.ids, strict=False)) if a != b), None)
            place = min(len(ids), len(item.ids)) if place is None else place
            raise _diverged(
                f"onnxruntime-genai's tokenizer gives other ids than the source's for text {number} "
                f"({item.text[:_SHOWN]!r}): from token {place} on {ids[place : place + 4]} instead of "
                f"{item.ids[place : place + 4]}. Use a model whose tokenizer onnxruntime-extensions supports."
            )


def compare(model: GenaiModel, reference: Reference) -> Comparison:
    """The ONNX model's predictions on the reference's scored texts, beside the source's."""
    nll, agreeing, positions = 0.0, 0, 0
    for text in reference.scored:
        logits = model.logits(text.ids)[:-1]
        nll += math.fsum(losses_of(logits, text.ids))
        agreeing += sum(int(token) in best for token, best in zip(logits.argmax(-1), text.best, strict=True))
        positions += len(text.best)
    return Comparison(perplexity(nll, positions), reference.perplexity, agreeing / positions, len(reference.scored))


def _require_close(found: Comparison, config: ModelBuilderConfig) -> None:
    if found.ratio <= config.max_perplexity_ratio and found.top1_agreement >= config.min_top1_agreement:
        return
    settings = "int4BlockSize, int4AlgoConfig k_quant or precision fp32" if config.precision == "int4" else "fp32"
    raise _diverged(
        f"perplexity is {found.perplexity:.4g}, {found.ratio:.3f} times the source's {found.source_perplexity:.4g} "
        f"(allowed: {config.max_perplexity_ratio:g}), and its best token is the source's, or as good as tied with "
        f"it, at {found.top1_agreement:.1%} of positions (needed: {config.min_top1_agreement:.1%}), over {found.texts} "
        f"texts. Try another {settings}, or set maxPerplexityRatio and minTop1Agreement."
    )


def _diverged(message: str) -> StageFailure:
    return StageFailure(Reason.ONNX_DIVERGED, message, exit_code=ExitCode.RESULT_REFUSED)
