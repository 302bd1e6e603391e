"""What a pass works on, brought here and checked: upstream outputs, the input model, rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api import layout
from finetune_api.data import DataConfig
from finetune_api.model import InputModel
from finetune_api.problems import problem
from finetune_api.stage import Manifest, Pins, Reason, StageInput
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.model_source import ModelSource, open_adapter, open_model
from finetune_trainer.rows import FileRows
from finetune_trainer.sources import DataFile, SourceFile, data_digest, fetch_data, files_digest, files_path
from finetune_trainer.volumes import is_volume
from finetune_trainer.watching import watched
from finetune_trainer.workplace import Workplace


def fetch_input(place: Workplace, role: str, wanted: StageInput) -> tuple[Path, Manifest]:
    """The folder with an upstream stage's output, every file checked, and its manifest.

    Raises StageFailure (InputChanged, ArtifactCorrupt) where it is not the one that the document names.
    """
    found = place.store.read_manifest(wanted.key, wanted.digest)
    if found is None or found.digest != wanted.digest:
        message = "its manifest is gone" if found is None else f"its manifest is now {found.digest}"
        path = f"status.stages[name={wanted.stage}].digest"
        remedy = "Change spec.runId to run the job again with what is there now."
        raise bad_input(Reason.INPUT_CHANGED, problem(path, wanted.digest, message, remedy))
    folder = place.scratch / "inputs" / role
    folder.mkdir(parents=True, exist_ok=True)
    place.store.download(found.manifest, folder, watched(place.report, f"fetching {wanted.stage}"[:32]))
    return folder, found.manifest


def manifests_before(place: Workplace, upstream: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The manifests of the stages that the `upstream` ones were made from, each once, the nearest first.

    One that is gone, or is another one by now, is left out: it says something about a model, and is not needed for one.
    """
    found: dict[str, Manifest] = {}
    wanted = [item for manifest in upstream for item in manifest.inputs.values()]
    while wanted:
        item = wanted.pop(0)
        committed = None if item.key in found else place.store.read_manifest(item.key, item.digest)
        if committed and committed.digest == item.digest:
            found[item.key] = committed.manifest
            wanted += committed.manifest.inputs.values()
    return tuple(found.values())


def fetch_base(place: Workplace) -> Path | None:
    """The folder with the job's input model, as pinned; None where the document names none.

    Raises StageFailure (InputChanged) where it is another model by now.
    """
    model = place.document.input_model
    if model is None:
        return None
    pins = _pins(place)
    if place.model_cache and not is_volume(model.model_path):
        kept = place.model_cache.folder(
            pins.model.digest, pins.model.size, lambda folder: _fetch_base_into(place, model, folder)
        )
        if kept:
            return kept
    source = open_model(model, place.sources, revision=pins.model.revision)
    return _fetch_pinned_folder(place, source, model.model_path, pins.model.digest)


def _fetch_base_into(place: Workplace, model: InputModel, folder: Path) -> None:
    """Fetches the input model, as pinned, as the folder `folder`."""
    pins = _pins(place)
    sources = replace(place.sources, scratch=folder.with_name("fetching"))
    source = open_model(model, sources, revision=pins.model.revision)
    _fetch_pinned_folder(place, source, model.model_path, pins.model.digest).rename(folder)
    shutil.rmtree(sources.scratch, ignore_errors=True)


def fetch_base_adapter(place: Workplace) -> Path | None:
    """The folder with the input model's adapter, as pinned; None where the stage does not read one.

    Raises StageFailure (InputChanged) where it is another adapter by now.
    """
    model, pins = place.document.input_model, place.document.pins
    if model is None or model.adapter_path is None:
        return None
    digest = _pins(place).model.adapter if pins else None
    if digest is None:
        raise ValueError(f"the document of stage {place.document.stage} has no pin of the adapter {model.adapter_path}")
    source = open_adapter(model, place.sources, revision=kept_commit(place, digest))
    return _fetch_pinned_folder(place, source, model.adapter_path, digest)


def _fetch_pinned_folder(place: Workplace, source: ModelSource, uri: str, digest: str) -> Path:
    folder = source.fetch([name for name in source.names() if source.kind.wants(name)])
    files = source.files()
    if files_digest(files, ordered=False) != digest:
        raise changed(place, source.kind.fields[0], uri, source.kind.noun, files)
    return folder


def fetch_rows(place: Workplace, name: str) -> FileRows:
    """The rows of the data config `name`, as pinned. Raises StageFailure (InputChanged, DataInvalid)."""
    config = next(config for config in place.document.data if config.name == name)
    files = fetch_pinned(place, config)
    if data_digest(files) != _pins(place).data[name].digest:
        shown = config.load_dataset_config.shown()
        raise changed(place, files_path(name), shown, f"data/{name}", [file.found for file in files])
    return FileRows(config, files)


def fetch_pinned(place: Workplace, config: DataConfig) -> list[DataFile]:
    """The files of `config`, from the commit of a hub data set where it is pinned to one, else as they are now."""
    pin = place.document.pins.data.get(config.name) if place.document.pins else None
    commit = kept_commit(place, pin.digest) if pin and config.load_dataset_config.is_hub else None
    return fetch_data(config, place.sources, commit=commit)


def kept_commit(place: Workplace, digest: str) -> str | None:
    """The hub's commit that files with this digest are from, where `keep_commit` wrote it down."""
    body = place.store.read_document(layout.data_path(digest))
    return json.loads(body).get("commit") if body else None


def keep_commit(place: Workplace, digest: str, commit: str | None) -> None:
    """Writes down the commit that hub files with this digest are from, if they are from one."""
    if commit:
        place.store.write_document(layout.data_path(digest), json.dumps({"commit": commit}).encode())


def changed(place: Workplace, path: str, value: str, part: str, files: list[SourceFile]) -> StageFailure:
    """The failure for an input that is not the pinned one, naming the files where prepare's report tells them."""
    before = _reported(place, part)
    names = [file.name for file in files if before and before.get(file.name) != file.tag]
    names += sorted(set(before) - {file.name for file in files})
    which = f" ({', '.join(names[:4])})" if names else ""
    remedy = "Put back what was there, or change spec.runId to take it as it is now."
    return bad_input(Reason.INPUT_CHANGED, problem(path, value, f"changed since it was prepared{which}", remedy))


def _reported(place: Workplace, part: str) -> dict[str, str]:
    """File → tag, as prepare's report has them for `part` (model, data/<name>); empty where there is no report."""
    job = place.document.job
    body = place.store.read_document(layout.report_path(job.uid, job.generation))
    content: Any = json.loads(body) if body else {}
    for step in part.split("/"):
        content = content.get(step, {})
    return {file["name"]: file["tag"] for file in content.get("files", [])}


def _pins(place: Workplace) -> Pins:
    if place.document.pins is None:
        raise ValueError(f"the document of stage {place.document.stage} has no pins")
    return place.document.pins
