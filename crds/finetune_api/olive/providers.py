"""Olive's execution providers → what a model is built for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.builder import ModelBuilderConfig
from finetune_api.olive.copying import accepts
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.reading import Source

CPU = "cpu"
CUDA = "cuda"
_OURS = {
    "CPUExecutionProvider": CPU,
    "CUDAExecutionProvider": CUDA,
    "DmlExecutionProvider": "dml",
    "JsExecutionProvider": "webgpu",
    "WebGpuExecutionProvider": "webgpu",
}


def chosen(sources: Sequence[Source], *, gpu: bool) -> str:
    """The first of Olive's providers that a job can build for; without any, what the system computes on."""
    if not sources:
        return CUDA if gpu else CPU
    return next((ours for source in sources if (ours := _ours(source)) is not None), CPU)


def say(sources: Sequence[Source], provider: str, passes: Sequence[dict[str, Any]]) -> None:
    """What became of each: it landed in the builder, or why it did not."""
    builder = next((item["name"] for item in passes if item["type"] == "ModelBuilder"), None)
    for source in sources:
        if builder is None:
            source.left_out("no pass builds an ONNX model.")
        elif _ours(source) == provider:
            source.land(f"spec.passes[name={builder}].config.executionProvider")
        elif _ours(source) is None:
            source.note(NoteKind.DECIDE, f"a job does not build for {source.value!r}; {builder} builds for {provider}.")
        else:
            source.left_out(f"a model is built for one provider; {builder} builds for {provider}.")


def _ours(source: Source) -> str | None:
    # Olive allows [name, options] too.
    value = source.value[0] if isinstance(source.value, list) and source.value else source.value
    ours = _OURS.get(value) if isinstance(value, str) else None
    return ours if ours and accepts(ModelBuilderConfig, "execution_provider", ours) else None
