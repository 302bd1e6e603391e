"""A conda environment's packages against those of the trainer image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Fate(StrEnum):
    """What is to be done about a package."""

    PRESENT = "in the trainer image"
    MISSING = "missing"
    NOT_NEEDED = "not needed"


@dataclass(frozen=True)
class Package:
    """One line of the environment, what became of it, and why."""

    line: str
    fate: Fate
    why: str


_PIP_NAMES = {"pytorch": "torch", "pytorch-gpu": "torch", "pytorch-cuda": "torch"}
_BASE = "it belongs to the image itself."
_CUDA = "CUDA's libraries come with the image's torch and onnxruntime."
_AZURE = "jobs run on Kubernetes and read s3://."
# The beginning of a package's name → why a job does without it.
_NOT_NEEDED = {
    "python": _BASE,
    "pip": _BASE,
    "setuptools": _BASE,
    "wheel": _BASE,
    "conda": _BASE,
    "cuda": _CUDA,
    "cudatoolkit": _CUDA,
    "cudnn": _CUDA,
    "nvidia": _CUDA,
    "azure": _AZURE,
    "azureml": _AZURE,
    "olive-ai": "the passes are the trainer's own.",
    "onnxruntime-training": "training runs on PyTorch.",
    "ort-nightly": "onnxruntime is in the image.",
    "torch-ort": "training runs on PyTorch.",
    "optimum": "onnxruntime-genai builds the ONNX model.",
    "auto-gptq": "QLoRA quantizes with bitsandbytes.",
    "autoawq": "QLoRA quantizes with bitsandbytes.",
    "deepspeed": "FSDP2 shares out models that do not fit one GPU (sharding: fsdp).",
    "datasets": "rows are read by the trainer itself, from files and from hub data sets.",
    "trl": "the training loop is the trainer's own.",
    "tensorboard": "the trainer writes its event files with tensorboardX (reportTo).",
    "torchmetrics": "evaluation is the trainer's own.",
    "evaluate": "evaluation is the trainer's own.",
    "jupyter": "no notebook runs in a stage.",
    "ipykernel": "no notebook runs in a stage.",
}
_NAME = re.compile(r"(?:[\w.-]+::)?([A-Za-z0-9][\w.-]*)")


def packages(environment: Any, present: Mapping[str, str]) -> list[Package]:
    """Every package of a conda file, read, once; `present` gives the image's requirement for each name it has.

    Names are compared as PyPI does (`normalised`). Raises ValueError where `environment` is no conda file.
    """
    lines = list(dict.fromkeys(_lines(environment)))
    return [_package(line, present) for line in lines]


def normalised(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _lines(environment: Any) -> Iterator[str]:
    entries = environment.get("dependencies") if isinstance(environment, Mapping) else None
    if not isinstance(entries, list):
        raise ValueError("a conda file has a list of dependencies")  # noqa: TRY004  (of values, as JSON's are)
    for entry in entries:
        if isinstance(entry, Mapping):
            for inner in entry.values():
                yield from (str(line).strip() for line in inner or [])
        else:
            yield str(entry).strip()


def _package(line: str, present: Mapping[str, str]) -> Package:
    if line.startswith("-"):
        return Package(line, Fate.NOT_NEEDED, "an option of pip; the image is installed already.")
    name = _name(line)
    if name in present:
        return Package(line, Fate.PRESENT, f"as {present[name]}.")
    for prefix, why in _NOT_NEEDED.items():
        if name == prefix or name.startswith(f"{prefix}-"):
            return Package(line, Fate.NOT_NEEDED, why)
    return Package(line, Fate.MISSING, "where the model needs it, build an image FROM the trainer's, with it.")


def _name(line: str) -> str:
    """The PyPI name of a requirement, a conda package or a URL."""
    if "://" in line and " @ " not in line:
        line = line.rsplit("#egg=", 1)[-1] if "#egg=" in line else line.rstrip("/").rsplit("/", 1)[-1]
        line = line.split("@", 1)[0].removesuffix(".git")
    found = _NAME.match(line)
    name = normalised(found[1] if found else line)
    return _PIP_NAMES.get(name, name)
