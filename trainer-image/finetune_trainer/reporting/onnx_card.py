"""The model card of an ONNX folder: what it was made from and how good it is, and how to run it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Formatter

from finetune_api.builder import ModelBuilderConfig, Provider
from finetune_api.data import PreProcessDataConfig
from finetune_trainer.context import StageContext
from finetune_trainer.provenance import library_versions
from finetune_trainer.reporting.card import fenced, stage_card
from finetune_trainer.tokenizer import load_tokenizer

# The packages whose wheels have the execution provider; WebGPU's comes with builds of one's own.
_PACKAGES: dict[Provider, str] = {
    "cpu": "onnxruntime-genai",
    "cuda": "onnxruntime-genai-cuda",
    "dml": "onnxruntime-genai-directml",
}
_TOKENS = 64
_PROGRAM = """\
import onnxruntime_genai as og

model = og.Model(".")  # this folder
tokenizer = og.Tokenizer(model)
tokenizer.update_options(add_special_tokens="false")
prompt = {prompt}
ids = {begin}tokenizer.encode(prompt).tolist()
parameters = og.GeneratorParams(model)
parameters.set_search_options(do_sample=False, max_length={length})
generator = og.Generator(model, parameters)
generator.append_tokens(ids)
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)[len(ids):]))"""


def onnx_card(context: StageContext, config: ModelBuilderConfig, figures: Mapping[str, float]) -> str:
    """The card of the ONNX model in `context.output`, which `figures` were found of by its check."""
    provider = config.execution_provider
    title = f"ONNX model, {config.precision} for {provider}"
    return stage_card(context, title, figures, extra=_how_to_run(context, provider))


def _how_to_run(context: StageContext, provider: Provider) -> list[str]:
    package = _PACKAGES.get(provider)
    version = library_versions().get("onnxruntime-genai") or library_versions().get("onnxruntime-genai-cuda", "")
    install = f"pip install {package}=={version}" if package else ""
    needed = [
        *(fenced("console", install) if install else []),
        *([] if install else [f"It needs a build of onnxruntime-genai {version} with the {provider} provider.", ""]),
    ]
    process = next((item.pre_process_data_config for item in context.document.data), None)
    return [
        "## How to run it",
        "",
        *needed,
        *_layout(process),
        *fenced("python", _program(context.output, process)),
    ]


def _program(folder: Path, process: PreProcessDataConfig | None) -> str:
    """Asks the model one question; the prompt is what the samples say before their answer begins."""
    bos = load_tokenizer(folder).bos_id if process is None or process.add_special_tokens else None
    decoder = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    window = int(decoder.get("sliding_window", {}).get("window_size", 0))
    # A cache of layers that see a window of tokens is refused where it is made for fewer (Gemma 2).
    length = f"max(len(ids) + {_TOKENS}, {window})" if window else f"len(ids) + {_TOKENS}"
    begin = "" if bos is None else f"[{bos}] + "
    return _PROGRAM.format(prompt=json.dumps(_prompt(process)), begin=begin, length=length)


def _prompt(process: PreProcessDataConfig | None) -> str:
    """What a sample says until its answer begins, columns in braces; "…" where nothing tells."""
    if process is None or process.text_template is None or not process.completion_only_loss:
        return "…"
    text = ""
    for literal, column, _, _ in Formatter().parse(process.text_template):
        text += literal
        if column == process.text_cols[-1]:
            break
        text += f"{{{column}}}" if column else ""
    return text


def _layout(process: PreProcessDataConfig | None) -> list[str]:
    if process is None:
        return []
    if process.is_chat:
        return [
            "It was trained on chats: lay the prompt out as one, with `tokenizer.apply_chat_template`. Until its turn:",
            "",
        ]
    if process.text_template:
        return ["Its samples were laid out like this:", "", *fenced("text", process.text_template)]
    return []
