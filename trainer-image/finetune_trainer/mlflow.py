"""MLflow's folders of transformers models: where in them model and tokenizer are, as their MLmodel says.

MLflow's own flavour `transformers` keeps the model in `model_binary` and the tokenizer in `components/tokenizer`
(mlflow.transformers.save_model); AzureML's registries keep both below `model_data` (flavours `hftransformersv2`,
`hftransformers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.tokenizer import MODEL_PATH

MLMODEL = "MLmodel"
LARGEST_MLMODEL = 1 << 20
_AZURE_FLAVORS = ("hftransformersv2", "hftransformers")


@dataclass(frozen=True)
class Layout:
    """A model's files: by their name in Hugging Face's layout, where they are. `found` says what was found."""

    files: Mapping[str, str]
    found: str = ""


def layout_of(names: Sequence[str], read: Callable[[str], bytes], uri: str) -> Layout:
    """The layout of the folder `uri`, which has the files `names`; `read` gives the content of one.

    A folder is MLflow's where it has an MLmodel and no config.json beside it. Raises StageFailure (ModelInvalid)
    where the MLmodel is of no transformers model, or where the model is not in the folder.
    """
    if MLMODEL not in names or "config.json" in names:
        return Layout({name: name for name in names})
    flavors = _flavors(read(MLMODEL), uri)
    if "transformers" in flavors:
        return _mlflow(flavors["transformers"], names, uri)
    azure = next((name for name in _AZURE_FLAVORS if name in flavors), None)
    if azure is not None:
        data = str(flavors[azure].get("model_data") or "data")
        return _arranged(names, uri, (f"{data}/tokenizer", f"{data}/model", f"{data}/config"))
    there = ", ".join(sorted(flavors)[:8]) or "none"
    raise _invalid(uri, f"its {MLMODEL} has no flavour transformers (there: {there})", "Save a transformers model.")


def _flavors(content: bytes, uri: str) -> dict[str, dict[str, Any]]:
    try:
        loaded = yaml.safe_load(content[:LARGEST_MLMODEL])
    except yaml.YAMLError as error:
        raise _invalid(uri, f"its {MLMODEL} is no YAML", "Save the model again with MLflow.") from error
    flavors = loaded.get("flavors") if isinstance(loaded, dict) else None
    if not isinstance(flavors, dict):
        return {}
    return {str(name): item for name, item in flavors.items() if isinstance(item, dict)}


def _mlflow(flavor: Mapping[str, Any], names: Sequence[str], uri: str) -> Layout:
    if flavor.get("peft_adaptor"):
        remedy = "Write modelPath: the base model, and adapterPath: the folder peft in this one."
        raise _invalid(uri, "it is an adapter without its base model", remedy)
    # Before 2.10 a pipeline was saved as one folder, its tokenizer beside the weights.
    model = flavor.get("model_binary") or flavor.get("pipeline")
    if not isinstance(model, str):
        source = flavor.get("source_model_name")
        remedy = f"Write modelPath: {source} and its revision." if source else "Save it with its weights."
        raise _invalid(uri, "it refers to a model without holding it (save_pretrained=False)", remedy)
    return _arranged(names, uri, ("components/tokenizer", model))


def _arranged(names: Iterable[str], uri: str, folders: Sequence[str]) -> Layout:
    """The files of `folders` as one folder; where two have a name, the later one's counts."""
    files: dict[str, str] = {}
    used: list[str] = []
    there = list(names)
    for folder in folders:
        inside = {name.removeprefix(f"{folder}/"): name for name in there if name.startswith(f"{folder}/")}
        files |= inside
        used += [f"{folder}/"] if inside else []
    if "config.json" not in files:
        shown = " or ".join(f"{folder}/" for folder in folders[1:])
        raise _invalid(uri, f"there is no config.json in {shown}, where its {MLMODEL} puts it", "Copy it whole.")
    return Layout(files, f"an MLflow transformers folder: {', '.join(used)}")


def _invalid(uri: str, message: str, remedy: str) -> StageFailure:
    return bad_input(Reason.MODEL_INVALID, problem(MODEL_PATH, uri, message, remedy))
