"""Which kernels a training gets, and that nothing changes where there is no GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.passes import lora
from finetune_trainer.training import kernels
from finetune_trainer.training.kernels import COMPILE_ANY_LENGTH_FROM_FLOP, COMPILE_FROM_FLOP, Kernels, Work, choose
from finetune_trainer.training.micro_batches import ENOUGH_TOKENS, Fill, passes_together

LONG = Work("phi3", "cuda", plain_head=True, uniform=True, flop=COMPILE_FROM_FLOP)


def used(work: Work, *, liger: bool = True) -> tuple[bool, bool, bool]:
    chosen = choose(work, liger=liger)
    return chosen.fused_loss, chosen.fused_layers, chosen.compiled


@pytest.mark.parametrize("architecture", sorted(kernels.VERIFIED_ARCHITECTURES))
def test_a_long_training_on_equal_samples_is_compiled_and_its_loss_fused(architecture: str) -> None:
    assert used(replace(LONG, architecture=architecture)) == (True, False, True)


@pytest.mark.parametrize("change", [{"flop": COMPILE_FROM_FLOP / 2}, {"uniform": False}])
def test_where_compiling_does_not_pay_liger_has_the_layers(change: dict[str, float | bool]) -> None:
    assert used(replace(LONG, **change)) == (True, True, False)


def test_without_liger_and_for_other_architectures_pytorch_computes_and_says_why() -> None:
    assert used(LONG, liger=False) == (False, False, True)
    assert used(replace(LONG, architecture="gpt2")) == (False, False, False)
    assert "not installed" in choose(LONG, liger=False).reasons[0]
    assert "gpt2" in choose(replace(LONG, architecture="gpt2"), liger=True).reasons[0]


def test_samples_that_would_need_a_mask_lie_side_by_side_where_the_kernel_can() -> None:
    packed = replace(LONG, masked=True, varlen=True, flop=COMPILE_ANY_LENGTH_FROM_FLOP)
    assert not choose(LONG, liger=True).varlen
    assert choose(packed, liger=True).varlen and used(packed) == (True, False, True)
    lines = replace(packed, uniform=False)
    assert choose(lines, liger=True).varlen and used(lines) == (True, False, True)
    assert used(replace(lines, flop=COMPILE_ANY_LENGTH_FROM_FLOP / 2)) == (True, True, False)
    for other in (replace(packed, varlen=False), replace(packed, architecture="gpt2"), replace(packed, device="cpu")):
        assert not choose(other, liger=True).varlen
    assert "side by side" in choose(packed, liger=True).reasons[-1]
    assert "with a mask" in choose(replace(packed, varlen=False), liger=True).reasons[-1]


@pytest.mark.parametrize("architecture", sorted(kernels.VERIFIED_ARCHITECTURES))
def test_liger_is_given_the_base_model_and_no_loss_but_its_fused_one(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """liger-kernel needs Triton, which CI has not: this is what it is asked for, and left to do by name."""
    asked: list[tuple[Any, dict[str, bool]]] = []
    stand_in = ModuleType("liger_kernel.transformers")
    stand_in._apply_liger_kernel_to_instance = lambda model, **given: asked.append((model, given))
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    model = SimpleNamespace(get_base_model=lambda: architecture, modules=list)
    for layers in (True, False):
        kernels.apply(model, Kernels(True, layers, False, ()))
        layer_kernels = dict.fromkeys(("rope", "rms_norm", "swiglu", "geglu"), layers)
        loss = {"fused_linear_cross_entropy": True, "cross_entropy": False}
        assert asked.pop() == (architecture, loss | layer_kernels)
    kernels.apply(model, Kernels(False, False, False, ()))
    assert not asked


def test_an_adapted_or_quantized_head_keeps_its_own_loss() -> None:
    """The fused loss takes the head's bare weight: it would leave out the adapter, or read packed bytes."""
    assert used(replace(LONG, plain_head=False)) == (False, False, True)


def test_on_a_cpu_nothing_is_used_and_one_line_says_so() -> None:
    chosen = choose(replace(LONG, device="cpu"), liger=True)
    assert chosen == Kernels(False, False, False, chosen.reasons)
    assert len(chosen.reasons) == 1 and "GPU" in chosen.reasons[0]


def test_the_pass_logs_what_it_chose(run_stage: Callable, lora_config: Callable) -> None:
    ran = run_stage(lora, "LoRA", lora_config(maxSteps=1), data={"train": {}})
    assert "kernels: PyTorch's own, since fused ones need a GPU" in ran.said


def test_work_tells_a_plain_head_from_an_adapted_one(base_model: object) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    def work(targets: list[str]) -> Work:
        model = AutoModelForCausalLM.from_pretrained(base_model)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
        return Work.of(adapted, torch.device("cpu"), kernels.Samples([8, 8]), 100)

    plain, adapted = work(["o_proj"]), work(["lm_head"])
    assert plain.plain_head and not adapted.plain_head
    assert plain.architecture == "phi3" and plain.uniform and plain.flop > 0


@given(st.integers(1, 512), st.integers(1, 10**5), st.integers(0, 10**11), st.integers(-(10**9), 2 * 10**11))
def test_passes_are_joined_evenly_and_within_memory(passes: int, tokens: int, taken: int, free: int) -> None:
    together = passes_together(passes, Fill(tokens, taken, free))
    assert passes % together == 0
    assert together == 1 or (together * tokens <= ENOUGH_TOKENS and together * taken <= free)


def test_as_many_passes_as_fit_are_joined() -> None:
    assert passes_together(16, Fill(2048, 2**30, 100 * 2**30)) == 8
    assert passes_together(16, Fill(2048, 2**30, 5 * 2**30)) == 4
    assert passes_together(6, Fill(2048, 2**30, 5 * 2**30)) == 3
    assert passes_together(4, Fill(2048, 2**30, 2**30)) == 1
