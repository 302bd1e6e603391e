"""Samples side by side: a model makes of each what it makes of it alone, and steps are cut into passes by tokens.

The kernel itself runs on GPUs only; here a plain computation stands in for it, so that places, windows and shapes are
those that the kernel would be given.
"""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from finetune_api.training import TrainingArgs
from finetune_trainer.data import Tokens
from finetune_trainer.report import Reporter
from finetune_trainer.training import kernels, split, varlen
from finetune_trainer.training.batches import Collator
from finetune_trainer.training.micro_batches import ENOUGH_TOKENS, Fill, Passes, by_tokens, joined, split_up
from finetune_trainer.training.setup import Setup
from finetune_trainer.training.world import Alone

from .alone import samples_of, total_loss
from .shapes import SHAPE

CONFIGS = {
    "phi3": Phi3Config(**SHAPE, sliding_window=None),
    "phi3, window": Phi3Config(**SHAPE, sliding_window=7),
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=8),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "gemma": GemmaConfig(**SHAPE, head_dim=16),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=6, layer_types=["sliding_attention"] * 2),
}


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    _: torch.Tensor,
    longest: int,
    __: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch's varlen_attn as its documentation has it, on [tokens, heads, size], sample by sample."""
    assert starts.dtype == torch.int32 and window_size[1] == 0
    assert enable_gqa == (query.shape[1] != key.shape[1])
    found = []
    for start, stop in pairwise(starts.tolist()):
        assert stop - start <= longest
        places = torch.arange(stop - start)
        back = places[:, None] - places[None, :]
        seen = (back >= 0) & ((back <= window_size[0]) | (window_size[0] < 0))
        parts = (each[start:stop].transpose(0, 1)[None] for each in (query, key, value))
        sdpa = torch.nn.functional.scaled_dot_product_attention
        found.append(sdpa(*parts, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)[0].transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("name", CONFIGS)
def test_samples_side_by_side_have_the_loss_of_each_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa")
    cpu = torch.device("cpu")
    lines, packs = samples_of("line-by-line"), samples_of("pack")
    alone, learned, gradients = total_loss(Setup(model, cpu, None, Collator(0)), lines, 1)
    monkeypatch.setattr(varlen, "varlen_attn", plain_attention)
    varlen.use(model)
    for samples in (lines, packs):
        setup = Setup(model, cpu, None, Collator(0, side_by_side=max(len(sample.ids) for sample in samples)))
        found, found_learned, found_gradients = total_loss(setup, samples, 5)
        assert found_learned == learned
        assert found == pytest.approx(alone, rel=1e-5)
        for parameter, gradient in gradients.items():
            assert torch.allclose(gradient, found_gradients[parameter], atol=1e-4), parameter


def test_the_kernel_is_told_where_samples_and_their_parts_begin() -> None:
    collate = Collator(0, side_by_side=4)
    batch = collate([Tokens([7, 8, 9], [True] * 3), Tokens([1, 2, 3, 4, 5], [True] * 5, starts=(0, 2))])
    inputs = batch.inputs(torch.device("cpu"))
    assert inputs["input_ids"].tolist() == [[7, 8, 9, 1, 2, 3, 4, 5]]
    assert inputs["labels"].tolist() == [[-100, 8, 9, -100, 2, -100, 4, 5]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert inputs["cu_seq_lens_q"].tolist() == [0, 3, 5, 8] and inputs["max_length_q"] == 4
    assert batch.tokens == 8 and "attention_mask" not in inputs


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"compute": None}, False),
        ({"compute": torch.float32}, False),
        ({"attention": "eager"}, False),
        ({"attention_dropout": 0.1}, False),
        ({"head_dim": 12}, False),
        ({"head_dim": 264}, False),
    ],
)
def test_the_kernel_is_used_only_where_it_can_compute_the_same(change: dict[str, Any], fits: bool) -> None:
    settings = {"compute": torch.bfloat16, "attention": "sdpa", "head_dim": 16} | change
    compute, attention = settings.pop("compute"), settings.pop("attention")
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, **settings), attn_implementation=attention)
    assert varlen.fits(model, compute) == fits


@pytest.mark.parametrize(
    ("lengths", "parts", "window", "masked"),
    [
        ([8, 8], False, None, False),
        ([8, 7], False, None, True),
        ([8, 8], True, None, True),
        ([8, 8], False, 8, False),
        ([8, 8], False, 7, True),
    ],
)
def test_attention_is_masked_where_samples_differ_have_parts_or_outgrow_the_window(
    lengths: list[int], parts: bool, window: int | None, masked: bool
) -> None:
    import peft

    config = Phi3Config(**SHAPE, sliding_window=window)
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(config), peft.LoraConfig(target_modules=["o_proj"]))
    work = kernels.Work.of(model, torch.device("cpu"), kernels.Samples(lengths, parts), 1, torch.bfloat16)
    assert (work.masked, work.varlen) == (masked, True)


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=30)


@given(LENGTHS, st.integers(1, 120))
def test_runs_hold_every_sample_in_order_and_no_more_tokens_than_asked(lengths: list[int], tokens: int) -> None:
    runs = by_tokens(range(len(lengths)), lengths, tokens)
    assert [index for run in runs for index in run] == list(range(len(lengths)))
    assert all(len(run) == 1 or sum(lengths[index] for index in run) <= tokens for run in runs)
    for run, after in pairwise(runs):
        assert sum(lengths[index] for index in (*run, after[0])) > tokens, "no run that would have fit was begun"


@given(LENGTHS, st.integers(1, 120), st.data())
def test_runs_are_split_up_to_the_number_that_another_rank_has(lengths: list[int], tokens: int, data: Any) -> None:
    runs = by_tokens(range(len(lengths)), lengths, tokens)
    number = data.draw(st.integers(len(runs), len(lengths)))
    parts = split_up(runs, number)
    assert len(parts) == number and all(parts)
    assert [index for part in parts for index in part] == list(range(len(lengths)))


class Several(Alone):
    """Ranks of which another one takes `least` at most."""

    size = 2

    def __init__(self, other: int) -> None:
        self._other = other

    def least(self, value: int) -> int:
        return min(value, self._other)


def test_all_ranks_do_as_many_passes_as_the_one_with_most() -> None:
    parts, lengths = ((0, 1), (2, 3)), [10, 10, 10, 10]
    passes = Passes(2, tokens=40)
    assert passes.cut(parts, 2, lengths, Alone()) == [(0, 1, 2, 3)]
    assert [len(part) for part in passes.cut(parts, 2, lengths, Several(-3))] == [1, 1, 2]
    assert Passes(4).cut(parts, 2, lengths, Several(-3)) == [(0, 1, 2, 3)], "equal samples are counted, the same on all"
    assert Passes(2, tokens=40).on_all(Several(30)) == Passes(2, tokens=30)
    assert Passes(8).on_all(Several(3)) == Passes(3)
    assert Passes(2, tokens=40).on_all(Several(0)).tokens is None, "the other one counts samples"


def test_out_of_memory_halves_samples_or_tokens_down_to_one() -> None:
    assert str(Passes(5).halved()) == "3 samples" and str(Passes(5, 9).halved()) == "5 tokens"
    assert Passes(2).may_halve and not Passes(1).may_halve
    assert Passes(1, 2).may_halve and not Passes(9, 1).may_halve


@pytest.mark.parametrize(
    ("side_by_side", "lengths", "taken", "args", "expected"),
    [
        (900, [900, 200], 2**30, {}, Passes(1, ENOUGH_TOKENS)),
        (900, [900, 200], 2**33, {}, Passes(1, 4500)),
        (900, [900, 200], 2**36, {}, Passes(1, 900)),
        (None, [900, 200], 2**30, {}, Passes(1)),
        (None, [900, 900], 2**30, {}, Passes(8)),
        (None, [900, 900], 2**30, {"groupByLength": True}, Passes(1)),
        (None, [900, 900], 2**30, {"gradientAccumulationSteps": 1}, Passes(1)),
    ],
)
def test_passes_are_filled_as_memory_allows(
    side_by_side: int | None, lengths: list[int], taken: int, args: dict[str, Any], expected: Passes
) -> None:
    settings = TrainingArgs.model_validate({"gradientAccumulationSteps": 8} | args)
    setup = Setup(torch.nn.Linear(1, 1), torch.device("cpu"), None, Collator(0, side_by_side=side_by_side))
    fill = Fill(tokens=900, taken=taken, free=50 * 2**30)
    assert joined(setup, lengths, settings, fill, Reporter(io.StringIO())) == expected


@pytest.mark.parametrize("beside", [False, True])
def test_layers_are_compiled_for_one_length_or_any_and_phi3_in_parts(
    beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    compiled: list[dict[str, Any]] = []
    monkeypatch.setattr(kernels.GradientCheckpointingLayer, "compile", lambda _, **given: compiled.append(given))
    lora = peft.LoraConfig(target_modules=["o_proj", "qkv_proj"])
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(CONFIGS["phi3"], attn_implementation="sdpa"), lora)
    kernels.apply(model, kernels.Kernels(False, False, True, (), varlen=beside))
    assert [given["dynamic"] for given in compiled] == [None if beside else False] * 2
    assert all(given["options"]["fallback_random"] for given in compiled)
    assert model.config._attn_implementation == (varlen.NAME if beside else "sdpa")
    assert sum(isinstance(module, split.SplitAttention) for module in model.modules()) == 2


def test_the_filler_is_as_long_as_the_first_sample() -> None:
    assert by_tokens([1, 2, 2], [10, 5], 20) == [(1, 2), (2,)]
