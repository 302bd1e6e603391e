"""Olive's `input_model` → `spec.inputModel`."""

from __future__ import annotations

import re
from typing import Any

from finetune_api.model import InputModel, LoadKwargs
from finetune_api.olive import reasons
from finetune_api.olive.copying import Fields, copy_fields, leave_rest
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.places import Places, file_of
from finetune_api.olive.reading import Source

TARGET = "spec.inputModel"
PATH = f"{TARGET}.modelPath"
PLACEHOLDER = "your-organisation/your-model"
_KINDS = ("HfModel", "PyTorchModel")
_TASKS = ("text-generation", "text-generation-with-past")
# Architectures that transformers has built in, so that none needs code that comes with the weights.
_BUILT_IN = re.compile(r"(phi|llama|qwen|mistral|mixtral|gemma|gpt2|gpt-?neo|opt|falcon|olmo|smollm|granite)", re.I)


def input_model(source: Source, places: Places) -> dict[str, Any]:
    """`spec.inputModel` for Olive's `input_model`: an HfModel, or a PyTorchModel with its `hf_config`."""
    fields = source.fields("config")
    hf_config = fields.pop("hf_config").fields() if "hf_config" in fields else {}
    result: dict[str, Any] = {"type": "HfModel", "modelPath": _model_path(fields, hf_config, places)}
    if result["modelPath"] == PLACEHOLDER:
        source.record.add(NoteKind.DECIDE, PATH, f"{PLACEHOLDER} stands for the model, which the input does not name.")
    _kind(fields.pop("type", None))
    adapter = _adapter(fields.pop("adapter_path", None), places)
    if adapter is not None:
        result["adapterPath"] = adapter
    for members in (hf_config, fields):
        result |= _task(members.pop("task", None))
        for key in ("load_kwargs", "from_pretrained_args", "model_loading_args"):
            if key in members:
                result["loadKwargs"] = {
                    **_load_kwargs(members.pop(key), result["modelPath"]),
                    **result.get("loadKwargs", {}),
                }
        result |= copy_fields(members, InputModel, TARGET, {})
        leave_rest(members, reasons.MODEL)
    return result


def _kind(kind: Source | None) -> None:
    if kind is None:
        return
    if str(kind.value).lower() in [name.lower() for name in _KINDS]:
        kind.land(f"{TARGET}.type")
    else:
        kind.note(NoteKind.DECIDE, f"jobs start from a Hugging Face model, not from {kind.value}; see {PATH}.")


def _task(task: Source | None) -> dict[str, str]:
    if task is None:
        return {}
    if task.value in _TASKS:
        task.land(f"{TARGET}.task")
        return {"task": _TASKS[0]}
    task.note(NoteKind.DECIDE, f"jobs do text-generation only; {task.value!r} was left out.")
    return {}


def _model_path(fields: Fields, hf_config: Fields, places: Places) -> str:
    """Where the weights are: `model_path`, unless it is an AzureML resource for which there is a hub id."""
    path, name = fields.pop("model_path", None), hf_config.pop("model_name", None)
    if path is not None and path.value is None:
        path.left_out("null; hf_config.model_name says which model.")
        path = None
    if path is not None and isinstance(path.value, dict):
        registered = _registered(path, name is None)
        if registered is not None or name is not None:
            return _named(name, places) if name else str(registered)
        return file_of(path, places, PATH) or PLACEHOLDER
    if path is not None and name is not None:
        name.left_out(f"the weights are model_path's; {name.value!r} only named their kind.")
    chosen = path or name
    if chosen is None:
        return PLACEHOLDER
    return _named(chosen, places)


def _adapter(source: Source | None, places: Places) -> str | None:
    """Where the adapter on the model is; None where there is none."""
    if source is None or source.value is None:
        if source is not None:
            source.left_out("null: the model alone.")
        return None
    path = f"{TARGET}.adapterPath"
    if isinstance(source.value, str) and places.is_hub_id(source.value):
        source.land(path)
        return source.value
    return file_of(source, places, path)


def _named(source: Source, places: Places) -> str:
    if not isinstance(source.value, str) or not source.value:
        source.note(NoteKind.DECIDE, f"a model's id or path is wanted, this is {source.value!r}; write {PATH}.")
        return PLACEHOLDER
    if places.is_hub_id(source.value):
        source.land(PATH)
        return source.value
    return places.of(source, PATH)


def _registered(path: Source, is_all: bool) -> str | None:
    """The name of a model of an AzureML registry; None where `path` is another resource."""
    fields = path.fields("config")
    kind = fields.get("type")
    if kind is None or str(kind.value).lower() not in ("azureml_registry_model", "azureml_model"):
        return None
    name = fields.get("name")
    kind.note(NoteKind.CHANGED, f"jobs read no AzureML registry; {PATH} is the model's hub id instead.")
    for key, item in fields.items():
        if key == "version":
            item.note(
                NoteKind.DECIDE,
                f"a registry's version {item.value!r} is no hub revision: pin the commit you mean at "
                f"{TARGET}.revision; until then main is pinned when the job is prepared.",
            )
        elif key == "name":
            _registry_name(item, is_all)
        elif key != "type":
            item.left_out("an AzureML registry's address; the hub id is enough.")
    return name.value if name and isinstance(name.value, str) and name.value else PLACEHOLDER


def _registry_name(item: Source, is_all: bool) -> None:
    if is_all:
        item.land(PATH)
        item.note(NoteKind.DECIDE, f"taken as a hub id; check that it is one, else write {PATH}.")
    else:
        item.left_out("hf_config.model_name says which model on the hub.")


def _load_kwargs(source: Source, model_path: str) -> dict[str, Any]:
    fields = source.fields()
    remote = fields.get("trust_remote_code")
    target = f"{TARGET}.loadKwargs"
    if remote is not None and remote.value is True:
        del fields["trust_remote_code"]
    else:
        remote = None
    memory = _max_memory(fields.pop("max_memory", None), f"{target}.maxMemory")
    result = copy_fields(fields, LoadKwargs, target, {"dtype": "torch_dtype"}) | memory
    if remote is not None:
        result["trustRemoteCode"] = _remote_code(remote, model_path, f"{target}.trustRemoteCode")
    leave_rest(fields, reasons.LOAD_KWARGS)
    return result


def _max_memory(source: Source | None, target: str) -> dict[str, Any]:
    """transformers' bound for each GPU and for the CPU; a process of a job has one GPU."""
    fields = source.fields() if source else {}
    bounds: dict[str, str | int] = {}
    for device, item in fields.items():
        amount = _quantity(item.value)
        key = "cpu" if device == "cpu" else "gpu" if device.isdigit() else None
        if key is None or amount is None:
            item.note(NoteKind.DECIDE, f"{device}: {item.value!r} is no amount of memory of a GPU or of the CPU.")
        elif key in bounds:
            item.left_out("a process has one GPU, whose bound the first one's is.")
        else:
            bounds[key] = amount
            item.land(f"{target}.{key}")
    return {"maxMemory": bounds} if bounds else {}


def _quantity(value: object) -> str | int | None:
    """transformers' `20GiB` or `20GB`, or bytes, as Kubernetes writes them."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 2**53:
        return value
    match = re.fullmatch(r"([1-9][0-9]{0,6})\s*([KMGT]i?)B", value, re.I) if isinstance(value, str) else None
    if match is None:
        return None
    unit = match[2][0].upper() + match[2][1:].lower()
    return f"{match[1]}{'k' if unit == 'K' else unit}"


def _remote_code(remote: Source, model_path: str, target: str) -> bool:
    """Whether code that comes with the weights is run after all."""
    if _BUILT_IN.search(model_path.rsplit("/", 1)[-1]):
        remote.note(NoteKind.CHANGED, f"{target} is false: transformers has this architecture built in.")
        return False
    remote.land(target)
    remote.note(NoteKind.DECIDE, "runs Python code that comes with the model; platforms refuse it unless allowed.")
    return True
