"""ModelBuilder and its check: a good model passes with figures, a bad one is refused with figures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from finetune_api.builder import ModelBuilderConfig
from finetune_api.stage import ExitCode, Reason
from finetune_trainer import model_builder
from finetune_trainer.errors import StageFailure
from finetune_trainer.evaluation import size
from finetune_trainer.evaluation.model import Subject
from finetune_trainer.model_builder import extra_options, search_options
from finetune_trainer.onnx_reference import BUILTIN_TEXTS, Reference
from finetune_trainer.passes import build
from finetune_trainer.tokenizer import load_tokenizer


def with_model(ran: Any, folder: Path) -> Any:
    """A copy of the stage's context whose output may be spoiled."""
    shutil.copytree(ran.folder, folder)
    return replace(ran.context, output=folder)


def zero_weight(folder: Path, name: str) -> None:
    """Sets the initializer's bytes to zero, in model.onnx.data."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    [tensor] = [item for item in model.graph.initializer if name in item.name]
    place = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / place["location"]).open("r+b") as file:
        file.seek(int(place.get("offset", 0)))
        file.write(bytes(int(place["length"])))


def test_the_int4_model_passes_its_check_and_answers_as_its_source(built: Any, accuracy_of: Callable) -> None:
    names = {path.name for path in built.folder.iterdir()}
    assert {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json"} <= names
    assert "reference.json" not in names
    figures = build.check(built.context)
    assert figures["texts"] == 64
    assert 1 / 1.25 < figures["perplexity_ratio"] == figures["perplexity"] / figures["source_perplexity"] < 1.25
    assert 0.9 <= figures["top1_agreement"] < 1, "four bits are not fp32"
    assert accuracy_of(onnx=built.folder).output.metrics["tone"] >= 0.95


def test_the_card_says_what_the_model_is_and_its_program_runs(
    built: Any, tmp_path: Path, accuracy_of: Callable
) -> None:
    context = with_model(built, tmp_path / "model")
    figures = build.check(context)
    card = (context.output / "README.md").read_text()
    assert "# ONNX model, int4 for cpu" in card
    assert f"| perplexity_ratio | {figures['perplexity_ratio']:.6g} |" in card
    assert '"precision": "int4"' in card
    assert "pip install onnxruntime-genai==" in card
    [program] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert r'prompt = "### Text: {phrase}\n### The tone is:\n"' in program
    program = program.replace("{phrase}", "We mourned the long rain?")
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, cwd=context.output, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "sadness"


def test_what_is_built_says_nothing_on_stdout(
    run_stage: Callable, base_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_stage(build, "ModelBuilder", {"precision": "fp32"}, base=base_model)
    assert capfd.readouterr().out == ""


def test_fp32_without_data_is_checked_on_built_in_texts_and_is_equal(run_stage: Callable) -> None:
    ran = run_stage(build, "ModelBuilder", {"precision": "fp32", "maxPerplexityRatio": 1.001, "minTop1Agreement": 1})
    figures = build.check(ran.context)
    assert figures["texts"] == len(BUILTIN_TEXTS)
    assert figures["perplexity_ratio"] == pytest.approx(1, abs=1e-3)
    assert figures["top1_agreement"] == 1


@pytest.mark.parametrize(
    ("options", "block", "zero_points", "accuracy_level"),
    [({}, 32, False, 4), ({"int4BlockSize": 16, "int4IsSymmetric": False, "int4AccuracyLevel": 1}, 16, True, 1)],
)
def test_int4_options_reach_the_builder(
    run_stage: Callable, options: dict[str, Any], block: int, zero_points: bool, accuracy_level: int
) -> None:
    """The builder ignores options that it does not know, so the model is asked what came of them."""
    ran = run_stage(build, "ModelBuilder", {"precision": "int4"} | options)
    model = onnx.load(ran.folder / "model.onnx", load_external_data=False)
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert nodes
    for node in nodes:
        values = {item.name: item.i for item in node.attribute}
        assert (values["bits"], values["block_size"], values["accuracy_level"]) == (4, block, accuracy_level)
        assert any("zp" in name or "zero" in name for name in node.input) is zero_points


def test_every_quantization_algorithm_builds_and_loads(run_stage: Callable) -> None:
    for algorithm in ("rtn", "k_quant", "k_quant_mixed", "k_quant_last"):
        config = {"precision": "int4", "int4AlgoConfig": algorithm, "minTop1Agreement": 0.5}
        figures = build.check(run_stage(build, "ModelBuilder", config).context)
        assert figures["perplexity_ratio"] < 1.25, algorithm


def test_options_are_those_of_the_builder() -> None:
    config = ModelBuilderConfig(precision="int4", int4_block_size=64, int4_is_symmetric=False)
    assert extra_options(config, remote_code=False) == [
        "hf_token=false",
        "hf_remote=false",
        "block_size=64",
        "is_symmetric=false",
    ]


def test_an_option_that_the_installed_builder_never_reads_is_refused(
    run_stage: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would pass over it without a word: int4_block_size, which its own help names, had no effect."""
    monkeypatch.setitem(model_builder._OPTIONS, "int4_block_size", "int4_block_size")
    with pytest.raises(StageFailure, match=r"has no option int4_block_size") as caught:
        run_stage(build, "ModelBuilder", {"precision": "int4", "int4BlockSize": 64})
    assert caught.value.reason is Reason.UNSUPPORTED


def test_lists_and_search_are_written_as_the_builder_wants_them() -> None:
    config = ModelBuilderConfig.model_validate(
        {
            "precision": "int8",
            "int4OpTypesToQuantize": ["MatMul", "Gather"],
            "int4NodesToExclude": ["/lm_head/MatMul", "/model/X"],
            "search": {"topK": 1, "doSample": False},
        }
    )
    options = extra_options(config, remote_code=True)
    assert options[1:] == [
        "hf_remote=true",
        "op_types_to_quantize=MatMul/Gather",
        "nodes_to_exclude=/lm_head/MatMul,/model/X",
    ]
    assert search_options(config) == {"top_k": 1, "do_sample": False}


def test_int8_with_an_excluded_node_and_search_options(run_stage: Callable) -> None:
    config = {
        "precision": "int8",
        "int4BlockSize": 64,
        "int4NodesToExclude": ["/lm_head/MatMul"],
        "search": {"maxLength": 128, "doSample": True, "temperature": 0.5, "topP": 0.9, "repetitionPenalty": 1.1},
    }
    ran = run_stage(build, "ModelBuilder", config)
    model = onnx.load(ran.folder / "model.onnx", load_external_data=False)
    quantized = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert {item.i for node in quantized for item in node.attribute if item.name == "bits"} == {8}
    assert "/lm_head/MatMul" in [node.name for node in model.graph.node if node.op_type == "MatMul"]
    search = json.loads((ran.folder / "genai_config.json").read_text())["search"]
    assert [search[name] for name in ("max_length", "do_sample", "temperature", "top_p", "repetition_penalty")] == [
        128, True, 0.5, 0.9, 1.1
    ]  # fmt: skip
    assert build.check(ran.context)["perplexity_ratio"] < 1.1
    assert build.verified(ran.context) == "execution"


@pytest.mark.parametrize(
    ("config", "path", "says"),
    [
        ({"int4NodesToExclude": ["/lm_head/MatMull"]}, "config.int4NodesToExclude", "did you mean /lm_head/MatMul"),
        ({"search": {"maxLength": 512}}, "my-modelbuilder]", "max_length exceeds"),
    ],
)
def test_options_that_do_not_fit_the_model(run_stage: Callable, config: dict[str, Any], path: str, says: str) -> None:
    with pytest.raises(StageFailure, match=re.escape(says)) as caught:
        run_stage(build, "ModelBuilder", {"precision": "int4"} | config)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert caught.value.problems[0].path.endswith(path)


def test_an_adapter_stays_unmerged_beside_the_base(
    run_stage: Callable, base_model: Path, adapter: Any, accuracy_of: Callable
) -> None:
    config = {"precision": "int4", "adapter": "unmerged"}
    ran = run_stage(build, "ModelBuilder", config, inputs={"adapter": adapter.folder}, base=base_model)
    names = [node.name for node in onnx.load(ran.folder / "model.onnx", load_external_data=False).graph.node]
    assert sum("lora_A" in name for name in names) == sum("lora_B" in name for name in names) > 0
    assert build.check(ran.context)["perplexity_ratio"] < 1.25
    assert accuracy_of(onnx=ran.folder).output.metrics["tone"] >= 0.85, "what the adapter learned is in it"


@pytest.fixture(scope="module")
def for_dml(run_stage: Callable) -> Any:
    return run_stage(build, "ModelBuilder", {"precision": "fp16", "executionProvider": "dml"})


def test_a_model_for_a_provider_that_no_pod_has_is_verified_by_structure(for_dml: Any, accuracy_of: Callable) -> None:
    figures = build.check(for_dml.context)
    assert build.verified(for_dml.context) == "structure"
    assert "no pod has dml: a fp32 build for cpu is run instead" in for_dml.said
    config = json.loads((for_dml.folder / "genai_config.json").read_text())
    assert any("dml" in name for name in config["model"]["decoder"]["session_options"]["provider_options"][0])
    inputs = onnx.load(for_dml.folder / "model.onnx", load_external_data=False).graph.output
    assert inputs[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    own = [path.stat().st_size for path in for_dml.folder.iterdir() if path.is_file()]
    tokenizer = load_tokenizer(for_dml.folder)
    found = size.measure(Subject("onnx", None, tokenizer, (for_dml.folder,)))  # type: ignore[arg-type]
    assert (found.value, found.figures["n"]) == (sum(own), len(own)), "the stand-in is not a part of the model"
    assert figures["perplexity_ratio"] == pytest.approx(1, abs=1e-3), "the stand-in is fp32"
    assert accuracy_of(onnx=for_dml.folder).output.metrics["tone"] >= 0


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"\x00" * 100), "no ONNX model|cannot be read"),
        (lambda folder: (folder / "model.onnx.data").write_bytes(b"short"), "is not whole"),
        (lambda folder: (folder / "genai_config.json").write_text("{}"), "no ONNX model"),
        (lambda folder: without_node(folder / "model.onnx"), "which nothing before it gives"),
        (lambda folder: replace_in(folder / "genai_config.json", '"dml"', '"cpu"'), "execution provider dml"),
        (lambda folder: replace_in(folder / "genai_config.json", '"input_ids"', '"ids"', last=True), "names ids"),
    ],
    ids=["graph", "weights", "no config", "a node less", "other provider", "other input"],
)
def test_a_structure_with_a_fault_is_refused(
    for_dml: Any, tmp_path: Path, spoil: Callable[[Path], Any], says: str
) -> None:
    context = with_model(for_dml, tmp_path / "model")
    spoil(context.output)
    with pytest.raises(StageFailure, match=says) as caught:
        build.check(context)
    assert caught.value.reason is Reason.ONNX_DIVERGED


def without_node(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    del model.graph.node[3]
    onnx.save(model, path)


def replace_in(path: Path, old: str, new: str, *, last: bool = False) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(new.join(text.rsplit(old, 1)) if last else text.replace(old, new))


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"precision": "fp16"}, "precision"),
        ({"precision": "bf16", "executionProvider": "webgpu"}, "precision"),
        ({"precision": "int4", "executionProvider": "cuda"}, "executionProvider"),
    ],
)
def test_what_could_be_built_but_not_run_is_refused_at_once(
    run_stage: Callable, monkeypatch: pytest.MonkeyPatch, config: dict[str, str], field: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(StageFailure) as caught:
        run_stage(build, "ModelBuilder", config)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert caught.value.problems[0].path == f"spec.passes[name=my-modelbuilder].config.{field}"
    assert caught.value.problems[0].remedy


def test_an_architecture_that_the_builder_does_not_know(run_stage: Callable, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=700, n_embd=32, n_layer=1, n_head=2)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, folder)
    with pytest.raises(StageFailure, match="builder does not know it") as caught:
        run_stage(build, "ModelBuilder", {"precision": "int4"}, base=folder)
    assert caught.value.reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("weight", ["lm_head.MatMul.weight_scales", "layers.0.mlp.down_proj.MatMul.weight_scales"])
def test_a_zeroed_weight_is_refused_with_figures(built: Any, tmp_path: Path, weight: str) -> None:
    context = with_model(built, tmp_path / "model")
    zero_weight(context.output, weight)
    with pytest.raises(StageFailure, match=r"perplexity is .* times the source's .* of positions") as caught:
        build.check(context)
    assert caught.value.reason is Reason.ONNX_DIVERGED
    assert caught.value.exit_code is ExitCode.RESULT_REFUSED


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "model.onnx").write_bytes(b"\x00" * 100),
        lambda folder: (folder / "model.onnx.data").write_bytes(b"short"),
        lambda folder: (folder / "model.onnx.data").unlink(),
        lambda folder: (folder / "genai_config.json").write_text("{}"),
    ],
    ids=["graph", "truncated", "no weights", "no config"],
)
def test_a_model_that_does_not_load_is_refused(built: Any, tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    context = with_model(built, tmp_path / "model")
    spoil(context.output)
    with pytest.raises(StageFailure, match="cannot load or run") as caught:
        build.check(context)
    assert caught.value.reason is Reason.ONNX_DIVERGED


def test_a_tokenizer_that_disagrees_is_refused_with_the_place(built: Any, tmp_path: Path) -> None:
    context = replace(with_model(built, tmp_path / "model"), scratch=tmp_path)
    reference = Reference.read(built.context.scratch)
    first, *rest = reference.tokenized
    changed = replace(first, ids=[*first.ids[:3], first.ids[3] + 1, *first.ids[4:]])
    replace(reference, tokenized=[changed, *rest]).write(tmp_path)
    with pytest.raises(StageFailure, match=r"other ids .* for text 1 .* from token 3 on") as caught:
        build.check(context)
    assert caught.value.reason is Reason.ONNX_DIVERGED


def test_the_reference_is_bounded_and_its_loss_is_the_models(built: Any, merged: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reference = Reference.read(built.context.scratch)
    assert len(reference.tokenized) == 144, "every different sample's tokenization"
    assert len(reference.scored) == 64
    text = reference.scored[5]
    model = AutoModelForCausalLM.from_pretrained(merged.folder)
    with torch.no_grad():
        output = model(torch.tensor([text.ids]), labels=torch.tensor([text.ids]))
    assert text.nll == pytest.approx(output.loss.item() * len(text.best), rel=1e-5)
    assert np.array_equal([best[0] for best in text.best], output.logits[0, :-1].argmax(-1))
