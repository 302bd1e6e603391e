"""Folders in Hugging Face's layout, looked at without loading the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import safe_open

from finetune_trainer.model_files import model_kind

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name → the safetensors file that holds it. Empty where `folder` has no weights in that format."""
    index = folder / INDEX
    if index.is_file():
        names = json.loads(index.read_text())["weight_map"]
        return {tensor: folder / file for tensor, file in names.items()}
    single = folder / SINGLE
    if not single.is_file():
        return {}
    with safe_open(single, framework="pt") as file:
        return dict.fromkeys(file.keys(), single)


def copy_companions(source: Path, target: Path, *, remote_code: bool = False) -> None:
    """Copies all that belongs to the model but its weights and their index; code only where it is allowed."""
    kind = model_kind(code=remote_code)
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if not path.is_file() or name == INDEX or kind.is_weights(name) or not kind.wants(name):
            continue
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
