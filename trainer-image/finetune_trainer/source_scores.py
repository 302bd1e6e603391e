"""What a source model says about texts, by transformers: the reference that its ONNX model is held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer

from finetune_api.model import LoadKwargs
from finetune_trainer.models import best_device, load_with_adapter
from finetune_trainer.onnx_reference import (
    MOST_TIED,
    NEAR_TIE,
    Reference,
    ScoredText,
    TokenizedText,
    texts_to_score,
)
from finetune_trainer.tokenizer import load_tokenizer


def make_reference(folder: Path, load: LoadKwargs, texts: Sequence[str], adapter: Path | None = None) -> Reference:
    """The source model's tokens of all `texts`, and its losses and best tokens over some of them.

    The source is the model in `folder`, with the `adapter` in that folder where there is one.

    Scored texts begin with BOS where the model's own tokenizer begins them so.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=load.trust_remote_code, local_files_only=True)
    tokenized = [TokenizedText(text, tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    bos = load_tokenizer(folder).bos_id
    begin = [] if bos is None else [bos]
    device = best_device()
    model = load_with_adapter(folder, load, adapter, device)
    context = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    chosen = texts_to_score([[*begin, *item.ids] for item in tokenized], context)
    scored = [_score(model, ids, device) for ids in chosen]
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()  # ONNX Runtime, which comes next, has an allocator of its own
    return Reference(tokenized, scored)


@torch.inference_mode()
def _score(model: torch.nn.Module, ids: list[int], device: torch.device) -> ScoredText:
    tensor = torch.tensor([ids], device=device)
    logits = model(input_ids=tensor, use_cache=False).logits[0, :-1].float()
    nll = torch.nn.functional.cross_entropy(logits, tensor[0, 1:], reduction="sum")
    return ScoredText(ids, nll.item(), _best(logits))


def _best(logits: torch.Tensor) -> list[list[int]]:
    """At each position of `logits` [positions, vocabulary], the most likely token and those as good as tied with it."""
    top = logits.softmax(-1).topk(min(MOST_TIED, logits.shape[-1]))
    tied = top.values >= top.values[:, :1] - NEAR_TIE
    return [row[keep].tolist() for row, keep in zip(top.indices, tied, strict=True)]
