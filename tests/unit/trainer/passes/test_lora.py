"""LoRA: it learns, exactly as the document says and no other way."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.stage import ExitCode, Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.passes import lora, merge


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_it_learns_the_mapping_and_generalises_to_new_combinations(adapter: Any, accuracy_of: Callable) -> None:
    base, tuned = accuracy_of().output.metrics, accuracy_of(adapter=adapter.folder).output.metrics
    assert base["tone/high"] < 0.5, "the base answers, and is right by chance (one tone in four)"
    assert tuned["tone"] >= 0.95
    assert tuned["tone/majority"] == pytest.approx(0.25)


def test_metrics_and_progress_tell_the_course(adapter: Any) -> None:
    metrics = adapter.output.metrics
    assert metrics["steps"] == 180
    assert 0 < metrics["train_loss"] < 0.4
    assert 0 < metrics["eval_loss"] < 0.3
    assert metrics["samples"] + round(0.1 * 144) == 144
    lines = [line for line in adapter.progress if "loss" in line]
    assert [line["step"] for line in lines] == [30, 60, 90, 120, 150, 180]
    assert all(line["total"] == 180 and line["tokensPerSecond"] > 0 and line["gradNorm"] > 0 for line in lines)
    assert lines[0]["loss"] > lines[-1]["loss"] == pytest.approx(metrics["train_loss"])
    assert lines[0]["learningRate"] > lines[-1]["learningRate"]
    assert lines[-1]["etaSeconds"] == 0
    activities = [line["activity"] for line in adapter.progress if line.get("activity")]
    assert activities == ["reading data", "loading model", "training", "saving adapter"]
    before, _, _ = adapter.said.partition('"step"')
    assert "a forward and backward pass over the longest 8 samples, 200 tokens: at most" in before, (
        "memory is tried out first"
    )


def test_the_adapter_is_one_that_peft_loads_and_that_names_its_base(adapter: Any, base_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "s3://models/tiny"
    assert config["target_modules"] == ["o_proj", "qkv_proj"]
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (16, 32, 0.05)
    assert {tensor.dtype for tensor in load_file(adapter.folder / "adapter_model.safetensors").values()} == {
        torch.float32
    }
    base = AutoModelForCausalLM.from_pretrained(base_model)
    ids = torch.arange(20)[None]
    before = base(ids).logits
    after = PeftModel.from_pretrained(base, adapter.folder)(ids).logits
    assert not torch.allclose(before, after, atol=1e-2)


def test_the_same_document_gives_the_same_bytes_and_another_seed_others(
    run_stage: Callable, lora_config: Callable
) -> None:
    def trained(**args: Any) -> Path:
        config = lora_config(maxSteps=6, **args)
        return run_stage(lora, "LoRA", config, data={"train": {}}).folder

    first, again, other, shuffled = trained(), trained(), trained(seed=1, dataSeed=42), trained(dataSeed=5)
    assert weights(first) == weights(again)
    assert (first / "adapter_config.json").read_bytes() == (again / "adapter_config.json").read_bytes()
    assert weights(first) != weights(other)
    assert weights(first) != weights(shuffled)


def test_accumulated_batches_learn_as_one_batch_of_their_size(run_stage: Callable, lora_config: Callable) -> None:
    """Every learned token weighs the same, however rows of unequal length are spread over forward passes."""

    def trained(size: int, passes: int) -> dict[str, torch.Tensor]:
        config = lora_config(
            {"loraDropout": 0},
            perDeviceTrainBatchSize=size,
            gradientAccumulationSteps=passes,
            maxSteps=4,
            learningRate=1e-3,
            lrSchedulerType="constant",
        )
        uneven = {"completionOnlyLoss": False}
        folder = run_stage(lora, "LoRA", config, data={"train": uneven}).folder
        return load_file(folder / "adapter_model.safetensors")

    one, many = trained(8, 1), trained(2, 4)
    for name, tensor in one.items():
        assert torch.allclose(tensor, many[name], atol=2e-5), name


def test_shuffled_tones_teach_nothing(
    run_stage: Callable, lora_config: Callable, accuracy_of: Callable, rows: dict[str, Any]
) -> None:
    """The negative control: the same training on tones that say nothing about their phrases."""
    tones = [row["tone"] for row in rows["train"]]
    random.Random(3).shuffle(tones)
    shuffled = [row | {"tone": tone} for row, tone in zip(rows["train"], tones, strict=True)]
    ran = run_stage(lora, "LoRA", lora_config(maxSteps=60), data={"train": {}}, own_rows={"train": shuffled})
    assert accuracy_of(adapter=ran.folder).output.metrics["tone/low"] < 0.45


def test_a_zeroed_adapter_is_the_base(
    adapter: Any, run_stage: Callable, accuracy_of: Callable, base_model: Path, tmp_path: Path
) -> None:
    """The other negative control: all that was learned is in the adapter's factors."""
    zeroed = tmp_path / "zeroed"
    shutil.copytree(adapter.folder, zeroed)
    factors = load_file(zeroed / "adapter_model.safetensors")
    nothing = {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in factors.items()}
    save_file(nothing, zeroed / "adapter_model.safetensors", metadata={"format": "pt"})
    base, same = accuracy_of().output, accuracy_of(adapter=zeroed).output
    assert same.metrics == base.metrics
    tuned = accuracy_of(adapter=adapter.folder).output
    assert tuned.metrics["tone/low"] > base.metrics["tone/high"], "the measure can tell them apart"
    merged = run_stage(merge, "MergeAdapterWeights", {}, inputs={"adapter": zeroed}).folder
    assert (merged / "model.safetensors").read_bytes() == (base_model / "model.safetensors").read_bytes()


def test_blocks_under_join_and_all_tokens_learned(run_stage: Callable, lora_config: Callable) -> None:
    config = lora_config(maxSteps=3, evalStrategy="steps", evalSteps=1, groupByLength=True)
    ran = run_stage(
        lora,
        "LoRA",
        config | {"evalDatasetSize": 20},
        data={"train": {"strategy": "join", "completionOnlyLoss": False, "maxSeqLen": 32}},
    )
    assert ran.output.metrics["tokens"] == 3 * 8 * 32
    assert [line["step"] for line in ran.progress if "evalLoss" in line] == [1, 2, 3]


def test_evaluation_while_training_changes_nothing_that_is_learned(run_stage: Callable, lora_config: Callable) -> None:
    def trained(**args: Any) -> bytes:
        config = lora_config({"evalDataConfig": "test"}, maxSteps=4, **args)
        return weights(run_stage(lora, "LoRA", config, data={"train": {}, "test": {}}).folder)

    assert trained() == trained(evalStrategy="steps", evalSteps=1, perDeviceEvalBatchSize=3, loggingSteps=1)


def test_checkpointed_activations_give_the_same_adapter(
    run_stage: Callable, lora_config: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.phi3.modeling_phi3 import Phi3MLP

    forward, calls = Phi3MLP.forward, []
    monkeypatch.setattr(Phi3MLP, "forward", lambda *args: (calls.append(1), forward(*args))[1])

    def trained(**args: Any) -> tuple[bytes, int]:
        calls.clear()
        ran = run_stage(lora, "LoRA", lora_config(maxSteps=3, **args), data={"train": {}})
        return weights(ran.folder), len(calls)

    plain, checkpointed = trained(), trained(gradientCheckpointing=True)
    assert plain[0] == checkpointed[0]
    assert checkpointed[1] == 2 * plain[1], "each layer is computed again in the backward pass"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains_float32_adapters(run_stage: Callable, lora_config: Callable, dtype: str) -> None:
    ran = run_stage(
        lora,
        "LoRA",
        lora_config({"torchDtype": dtype}, maxSteps=12, loggingSteps=4),
        data={"train": {"padToMaxLen": True, "useAttentionMask": False, "maxSeqLen": 40}},
    )
    losses = [line["loss"] for line in ran.progress if "loss" in line]
    assert losses[-1] < losses[0]
    tensors = load_file(ran.folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("passes", "args", "reason", "path", "said"),
    [
        (
            {"targetModules": ["qkv_proj", "o_prj"]},
            {},
            Reason.UNSUPPORTED,
            "spec.passes[name=my-lora].config.targetModules",
            "Nearest: o_proj",
        ),
        (
            {},
            {"optim": "paged_adamw_32bit"},
            Reason.UNSUPPORTED,
            "spec.passes[name=my-lora].config.trainingArgs.optim",
            "Use adamw_torch",
        ),
    ],
)
def test_what_cannot_be_names_path_value_and_remedy(
    run_stage: Callable,
    lora_config: Callable,
    passes: dict[str, Any],
    args: dict[str, Any],
    reason: Reason,
    path: str,
    said: str,
) -> None:
    with pytest.raises(StageFailure) as caught:
        run_stage(lora, "LoRA", lora_config(passes, **args), data={"train": {}})
    [problem] = caught.value.problems
    assert (caught.value.reason, caught.value.exit_code) == (reason, ExitCode.BAD_INPUT)
    assert problem.path == path
    assert said in problem.remedy
    assert problem.value in ("o_prj", "paged_adamw_32bit")


def test_completions_that_are_all_cut_off_are_no_samples(run_stage: Callable, lora_config: Callable) -> None:
    with pytest.raises(StageFailure, match="maxSeqLen") as caught:
        run_stage(lora, "LoRA", lora_config(), data={"train": {"maxSeqLen": 8}})
    assert caught.value.reason is Reason.NO_SAMPLES


def test_a_loss_that_is_no_number_ends_the_stage_with_advice(
    run_stage: Callable, lora_config: Callable, base_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base_model, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], math.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageFailure, match=r"Lower trainingArgs\.learningRate") as caught:
        run_stage(lora, "LoRA", lora_config(loggingSteps=1), data={"train": {}}, base=broken)
    assert caught.value.reason is Reason.LOSS_NOT_FINITE
    assert caught.value.exit_code is ExitCode.RESULT_REFUSED


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "of another shape"])
def test_an_incomplete_model_is_refused_not_filled_with_random_weights(
    run_stage: Callable, lora_config: Callable, base_model: Path, tmp_path: Path, missing: bool
) -> None:
    lacking = tmp_path / "lacking"
    shutil.copytree(base_model, lacking)
    tensors = load_file(lacking / "model.safetensors")
    down = tensors.pop("model.layers.1.mlp.down_proj.weight")
    if not missing:
        tensors["model.layers.1.mlp.down_proj.weight"] = down[:, :64].contiguous()
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageFailure, match=r"down_proj") as caught:
        run_stage(lora, "LoRA", lora_config(), data={"train": {}}, base=lacking)
    assert caught.value.reason is Reason.MODEL_INVALID
    assert caught.value.problems[0].path == "spec.inputModel.modelPath"
