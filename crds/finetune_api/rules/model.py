"""Rules of the input model: places that pods can read, and fields that belong to a hub."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_api import quantity
from finetune_api.job import JobSpec
from finetune_api.problems import Problem, problem

_SCHEMES = ("s3://", "pvc://")
# The hub's alphabet; its earliest models (gpt2) have a name without an organisation.
_HUB_ID = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]*(/[A-Za-z0-9][-._A-Za-z0-9]*)?")
_REMEDY = "Write a hub id (org/name), s3://bucket/folder or pvc://claim/folder."


def places(spec: JobSpec) -> Iterator[Problem]:
    """Model and adapter are at a hub, in a store or on a volume; a local path is for `finetune run` alone."""
    model = spec.input_model
    for field, uri in (("modelPath", model.model_path), ("adapterPath", model.adapter_path)):
        if uri is None:
            continue
        path = f"spec.inputModel.{field}"
        if uri.startswith(_SCHEMES):
            place, slash, folder = uri.partition("://")[2].partition("/")
            if not place or not slash or (uri.startswith("s3://") and not folder):
                yield problem(path, uri, "names no folder", _REMEDY)
            elif ".." in folder.split("/"):
                yield problem(path, uri, "leads out of where it begins", "Leave out '..'.")
        elif "://" in uri:
            yield problem(path, uri, f"pods read no {uri.partition('://')[0]}://", _REMEDY)
        elif not _HUB_ID.fullmatch(uri):
            yield problem(path, uri, "neither a hub id nor a URI", _REMEDY)


def revisions(spec: JobSpec) -> Iterator[Problem]:
    """A revision is a hub's."""
    model = spec.input_model
    if model.revision is not None and not model.is_hub:
        yield problem("spec.inputModel.revision", model.revision, "only a hub model has one", "Remove it.")
    if model.adapter_revision is not None and model.adapter_path is None:
        remedy = "Give adapterPath, or remove this."
        yield problem("spec.inputModel.adapterRevision", model.adapter_revision, "there is no adapterPath", remedy)
    elif model.adapter_revision is not None and not model.is_hub_adapter:
        path, value = "spec.inputModel.adapterRevision", model.adapter_revision
        yield problem(path, value, "only a hub adapter has one", "Remove it.")


def memory(spec: JobSpec) -> Iterator[Problem]:
    """A process has some memory."""
    bounds = spec.input_model.load_kwargs.max_memory
    for device in ("gpu", "cpu") if bounds else ():
        value = getattr(bounds, device)
        if value is not None and quantity.amount(value) < 1:
            path = f"spec.inputModel.loadKwargs.maxMemory.{device}"
            yield problem(path, value, "no memory at all", "Write an amount of bytes, such as 20Gi.")


RULES = (places, revisions, memory)
