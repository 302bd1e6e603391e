"""Whether a folder is a model that stages can use, found out from its listing and its small files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.model import InputModel
from finetune_api.problems import problem
from finetune_api.stage import MAX_ARCHITECTURE, ModelPin, Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.model_source import ModelSource
from finetune_trainer.sources import SourceFile, files_digest
from finetune_trainer.tokenizer import MODEL_PATH, TextTokenizer, load_tokenizer, read_json

_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class CheckedModel:
    """A model that was looked at: its pin, the files behind it, its configuration and tokenizer."""

    pin: ModelPin
    files: list[SourceFile]
    config: dict[str, Any]
    tokenizer: TextTokenizer


def check_model(model: InputModel, source: ModelSource) -> CheckedModel:
    """Looks at `model`'s listing and reads all but its weights.

    Raises StageFailure: ModelNotFound, or ModelInvalid naming what is missing or wrong.
    """
    names = source.names()
    if not names:
        remedy = "Name the folder that holds config.json."
        raise bad_input(Reason.MODEL_NOT_FOUND, problem(MODEL_PATH, model.model_path, "there is nothing", remedy))
    if "config.json" not in names:
        raise _invalid(model, "no config.json in it", _folder_remedy(names))
    _require_safetensors(model, source, names)
    folder = source.fetch(companions(source))
    config = read_json(folder / "config.json")
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise _invalid(model, "config.json names no architecture", 'Add it, such as ["Phi3ForCausalLM"].')
    _require_shards(model, folder, names)
    files = source.files()
    pin = ModelPin(
        digest=files_digest(files, ordered=False),
        revision=source.revision,
        architecture=architectures[0][:MAX_ARCHITECTURE],
        size=sum(file.size for file in files),
    )
    return CheckedModel(pin, files, config, load_tokenizer(folder))


def companions(source: ModelSource) -> list[str]:
    """The files of `source` that are read before its weights are."""
    return [name for name in source.names() if source.kind.wants(name) and not source.kind.is_weights(name)]


def _require_safetensors(model: InputModel, source: ModelSource, names: Sequence[str]) -> None:
    if any(source.kind.is_weights(name) for name in names):
        return
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        message = f"its weights are pickles ({pickles[0]}), which can run code when loaded"
        remedy = "Save it again with save_pretrained(safe_serialization=True) and name that folder."
        raise _invalid(model, message, remedy)
    raise _invalid(model, "no weights in it (model*.safetensors)", "Name a folder that holds the weights too.")


def _require_shards(model: InputModel, folder: Path, names: Sequence[str]) -> None:
    """Every shard that the index names is there."""
    shards = read_json(folder / _INDEX).get("weight_map", {})
    missing = sorted(set(shards.values()) - set(names)) if isinstance(shards, dict) else []
    if missing:
        message = f"{_INDEX} names {missing[0]}, which is not there ({len(missing)} missing)"
        raise _invalid(model, message, "Copy the whole model.")


def _folder_remedy(names: Sequence[str]) -> str:
    inner = next((name for name in names if name.endswith("/config.json")), None)
    return f"Name the folder {inner.rpartition('/')[0]} in it." if inner else "Name the folder that holds config.json."


def _invalid(model: InputModel, message: str, remedy: str) -> StageFailure:
    return bad_input(Reason.MODEL_INVALID, problem(MODEL_PATH, model.model_path, message, remedy))


def fits_vocabulary(model: InputModel, checked: CheckedModel, highest_id: int) -> None:
    """Raises StageFailure (ModelInvalid) where the tokenizer makes ids that the model has no embedding for."""
    size = checked.config.get("vocab_size")
    if isinstance(size, int) and highest_id >= size:
        message = f"its tokenizer makes the id {highest_id}, its embedding has {size} rows"
        raise _invalid(model, message, "Use the tokenizer that belongs to the model, or resize its embedding.")


def describe(config: dict[str, Any]) -> str:
    """A model's shape in one line, for the log."""
    shown = ("model_type", "num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings")
    return json.dumps({name: config[name] for name in shown if name in config})
