"""What can be verified of an ONNX model without running it: its graph, its weights' place, its genai_config.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api.stage import ExitCode, Reason
from finetune_trainer.errors import StageFailure

# Where the CPU build lies that is run in the place of a model whose execution provider no pod has.
STAND_IN = "cpu-stand-in"
# onnxruntime-genai's names of execution providers, in session_options.provider_options.
_PROVIDER_OPTIONS = {"dml": "dml", "webgpu": "webgpu"}


def check_structure(folder: Path, provider: str) -> None:
    """Raises StageFailure (OnnxDiverged) where the model in `folder` could not be loaded for `provider` anywhere.

    Every value of the graph comes from somewhere, the weights that it names are whole, and genai_config.json names
    the graph, its inputs and outputs, and the provider. ONNX's own checker cannot be asked: ONNX Runtime keeps
    operators of its own, such as SimplifiedLayerNormalization, in ONNX's domain.
    """
    import onnx  # noqa: PLC0415  (most builds are run, and need no second reader)

    try:
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        decoder = config["model"]["decoder"]
        model = onnx.load(folder / decoder["filename"], load_external_data=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _refused(f"it is no ONNX model: {str(error)[:300]}") from error
    except Exception as error:
        # protobuf's DecodeError has no class of its own in every implementation.
        if type(error).__name__ != "DecodeError":
            raise
        raise _refused(f"its graph cannot be read: {error}") from error
    for fault in _faults(folder, model, decoder, provider):
        raise _refused(fault)


def _faults(folder: Path, model: Any, decoder: dict[str, Any], provider: str) -> Iterator[str]:
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            path = folder / place["location"]
            end = int(place.get("offset", 0)) + int(place.get("length", 0))
            if not path.is_file() or path.stat().st_size < end:
                yield f"the weight {tensor.name} is not whole in {place['location']}"
    yield from _unconnected(model.graph)
    known = {item.name for item in (*model.graph.input, *model.graph.output)}
    for kind in ("inputs", "outputs"):
        for name in decoder[kind].values():
            if "%d" not in name and name not in known:
                yield f"genai_config.json names {name} among its {kind}, which the graph has not"
    options = decoder["session_options"]["provider_options"]
    if not any(_PROVIDER_OPTIONS[provider] in (name.lower() for name in item) for item in options):
        yield f"genai_config.json does not name the execution provider {provider}"


def _unconnected(graph: Any) -> Iterator[str]:
    there = {"", *(item.name for item in (*graph.input, *graph.initializer))}
    for node in graph.node:
        for name in node.input:
            if name not in there:
                yield f"{node.name} reads {name}, which nothing before it gives"
        there.update(node.output)
    for item in graph.output:
        if item.name not in there:
            yield f"nothing gives its output {item.name}"


def _refused(message: str) -> StageFailure:
    said = f"the ONNX model's structure: {message}"
    return StageFailure(Reason.ONNX_DIVERGED, said, exit_code=ExitCode.RESULT_REFUSED)
