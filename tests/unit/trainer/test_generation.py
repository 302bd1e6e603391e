"""When answers end, and that batches change none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune_api.model import LoadKwargs
from finetune_trainer.generation import Limits, answer_text, stop_check
from finetune_trainer.generation_hf import HfGenerator, load_hf_generator
from finetune_trainer.tokenizer import TextTokenizer, load_tokenizer

PROMPTS = ("### Text: I loved the little dog.", "### Text:", "### Text: We ran from the long rain?\n### The tone is:\n")


def never(_: object) -> bool:
    return False


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> TextTokenizer:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def generator(tiny_model: Path) -> HfGenerator:
    return load_hf_generator(tiny_model, LoadKwargs(), None)


def test_a_batch_answers_as_each_prompt_alone_and_as_no_cache_would(
    generator: HfGenerator, tokenizer: TextTokenizer, tiny_model: Path
) -> None:
    from transformers import AutoModelForCausalLM

    prompts = [tokenizer.encode(text).ids for text in PROMPTS]
    limits = Limits(6, frozenset(), never)
    together = dict(generator.generate(prompts, limits))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for index, prompt in enumerate(prompts):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert together[index] == ids[len(prompt) :]
        assert dict(generator.generate([prompt], limits))[0] == together[index]


def test_an_end_token_ends_an_answer_and_is_no_part_of_it(generator: HfGenerator, tokenizer: TextTokenizer) -> None:
    prompt = tokenizer.encode(PROMPTS[0]).ids
    [(_, free)] = generator.generate([prompt], Limits(8, frozenset(), never))
    end = free[3]
    [(_, ended)] = generator.generate([prompt], Limits(8, frozenset({end}), never))
    assert ended == free[: free.index(end)]


def test_a_prompt_that_fills_the_context_has_no_answer_and_harms_no_other(generator: HfGenerator) -> None:
    answers = dict(generator.generate([[5] * 256, [5] * 254, [5] * 3], Limits(4, frozenset(), never)))
    assert [len(answers[index]) for index in range(3)] == [0, 2, 4]


def test_stop_texts_end_and_cut_answers(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("joy.\n### Text: more").ids
    stopped = stop_check(tokenizer, ["\n###", "zzz"])
    first = next(size for size in range(1, len(ids) + 1) if stopped(ids[:size]))
    assert "\n###" in tokenizer.decode(ids[:first])
    assert "\n###" not in tokenizer.decode(ids[: first - 1])
    assert answer_text(tokenizer, ids, ["zzz", "\n###", "### Text"]) == "joy."
    assert not stop_check(tokenizer, [])(ids)
