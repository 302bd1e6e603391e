"""Olive's `data_configs` → `spec.dataConfigs`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from pydantic.alias_generators import to_camel

from finetune_api.data import TOKENIZERS_OWN, TRAIN, LoadDatasetConfig, PreProcessDataConfig
from finetune_api.olive import reasons
from finetune_api.olive.copying import Fields, accepts, copy_fields, leave_rest
from finetune_api.olive.naming import Names
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.places import PLACEHOLDER_ROOT, Places, file_of
from finetune_api.olive.reading import Record, Source
from finetune_api.splits import parse_split

_SPELLINGS = {"source_max_len": "max_seq_len", "corpus_strategy": "strategy"}
_OLIVES_SPLIT = "validation"
# Fields that only some strategies read; a job refuses them under any other.
_ONLY_FOR = {
    "stride": ("join-sliding-window",),
    "random_seed": ("line-by-line-random", "join-random"),
    "drop_short_sequences": ("line-by-line", "line-by-line-random"),
}


@dataclass
class DataConfigs:
    """The data configs of a job: as they stand in its spec, and how they are called now."""

    places: Places
    specs: list[dict[str, Any]] = field(default_factory=list)
    names: Names = field(default_factory=lambda: Names("spec.dataConfigs"))

    def read(self, source: Source) -> None:
        """Add all of Olive's list or map of data configs."""
        for name, item in source.named():
            self.add(name, item)

    def add(self, name: str, source: Source) -> str:
        """Add the data config that Olive calls `name`; its name now."""
        spec = _data_config(name, source, self.places, self.names)
        self.specs.append(spec)
        return str(spec["name"])

    def refer(self, source: Source, target: str) -> str | None:
        """Our name for the data config that `source` names, or, up to Olive 0.6, is itself."""
        if isinstance(source.value, Mapping):
            name = source.value.get("name")
            return self.add(name if isinstance(name, str) and name else target.rpartition(".")[2], source)
        return self.names.refer(source, target)


def _data_config(name: str, source: Source, places: Places, names: Names) -> dict[str, Any]:
    fields = source.fields("config")
    ours = names.new(name, source)
    target = f"spec.dataConfigs[name={ours}]"
    if "name" in fields:
        fields.pop("name").land(f"{target}.name")
    _container(fields.pop("type", None), f"{target}.type")
    load, process = fields.pop("load_dataset_config", None), fields.pop("pre_process_data_config", None)
    leave_rest(fields, reasons.DATA_CONFIG)
    return {
        "name": ours,
        "type": "HuggingfaceContainer",
        "loadDatasetConfig": _load(load, places, ours, f"{target}.loadDatasetConfig", source.record),
        "preProcessDataConfig": _pre_process(process, f"{target}.preProcessDataConfig", source.record),
    }


def _container(kind: Source | None, target: str) -> None:
    if kind is None:
        return
    if kind.value in ("HuggingfaceContainer", "DataContainer"):
        kind.land(target)
    else:
        kind.note(
            NoteKind.DECIDE, f"jobs know HuggingfaceContainer only: make the rows of {kind.value} a file of rows."
        )


def _load(source: Source | None, places: Places, name: str, target: str, record: Record) -> dict[str, Any]:
    fields = source.fields("params", "config") if source else {}
    is_hub = _format(fields, f"{target}.dataFiles")
    result = _files(fields.pop("data_files", None), places, target, is_hub=is_hub)
    if not result and not is_hub:
        uri = f"{places.root or PLACEHOLDER_ROOT}/{name}.jsonl"
        result["dataFiles"] = [uri]
        record.add(NoteKind.DECIDE, f"{target}.dataFiles", f"{uri} stands for files, of which the input names none.")
    _split(fields, result, target, record)
    _filters(fields, result, f"{target}.colFilters")
    if not is_hub:
        for key in ("subset", "revision"):
            if key in fields:
                fields.pop(key).left_out("belongs to hub data sets; files are pinned by their content.")
    result |= copy_fields(fields, LoadDatasetConfig, target, {})
    leave_rest(fields, reasons.LOAD_DATASET)
    return result


def _format(fields: Fields, target: str) -> bool:
    """Whether the rows are a hub data set's; a format that jobs do not read is taken out, with a note."""
    name = fields.get("data_name")
    if name is None:
        return False
    if not accepts(LoadDatasetConfig, "data_name", name.value):
        name.note(
            NoteKind.DECIDE,
            f"jobs read json, csv, parquet and text files and hub data sets (org/name), not {name.value!r}: write the "
            f"rows as one JSON object per line, and its URI at {target}.",
        )
        del fields["data_name"]
        return False
    return "/" in str(name.value)


def _split(fields: Fields, result: dict[str, Any], target: str, record: Record) -> None:
    """The split as it is, where there are files of it; else train, in which a job's dataFiles are."""
    split = fields.get("split")
    if split is None:
        if "dataFiles" not in result:
            result["split"] = _OLIVES_SPLIT
            record.add(
                NoteKind.CHANGED, f"{target}.split", f"{_OLIVES_SPLIT}, which Olive takes where nothing is said."
            )
        return
    if not accepts(LoadDatasetConfig, "split", split.value) or "dataFiles" not in result:
        return
    wanted = [part.split for part in parse_split(str(split.value))]
    if any(name != TRAIN for name in wanted):
        split.note(
            NoteKind.DECIDE, f"dataFiles are split train, not {split.value!r}: name those of others in splitFiles."
        )
        del fields["split"]


def _filters(fields: Fields, result: dict[str, Any], target: str) -> None:
    """Olive compares values, a job their texts: numbers and truth values as JSON writes them."""
    source = fields.pop("col_filters", None)
    filters = source.fields() if source else {}
    texts: dict[str, str] = {}
    for column, item in filters.items():
        if isinstance(item.value, str | bool | int | float):
            texts[column] = item.value if isinstance(item.value, str) else json.dumps(item.value)
            item.land(f"{target}.{column}")
        else:
            item.note(NoteKind.DECIDE, f"{item.value!r} is neither a text nor a number: filter the file.")
    if texts:
        result["colFilters"] = texts


def _files(source: Source | None, places: Places, target: str, *, is_hub: bool) -> dict[str, Any]:
    """`dataFiles` for a path or a list of them, `splitFiles` for a map."""
    if source is None or source.value is None:
        if source is not None:
            source.left_out("null, which is the same as leaving it out.")
        return {}
    if not isinstance(source.value, dict) or "type" in source.value:
        files = _uris(source, places, f"{target}.dataFiles", is_hub=is_hub)
        return {"dataFiles": files} if files else {}
    splits = []
    for split, item in source.fields().items():
        files = _uris(item, places, f"{target}.splitFiles[split={split}].files", is_hub=is_hub)
        if files:
            splits.append({"split": split, "files": files})
    return {"splitFiles": splits} if splits else {}


def _uris(source: Source, places: Places, target: str, *, is_hub: bool) -> list[str]:
    found: list[str] = []
    for item in source.items():
        path = f"{target}[{len(found)}]"
        uri = _repository_path(item, path) if is_hub else file_of(item, places, path)
        if uri is not None:
            found.append(uri)
    return found


def _repository_path(source: Source, target: str) -> str | None:
    """A file of a hub data set, which stays as it is."""
    if not isinstance(source.value, str):
        source.note(NoteKind.DECIDE, f"a path in the repository is wanted here, this is {source.value!r}.")
        return None
    source.land(target)
    return source.value


def _pre_process(source: Source | None, target: str, record: Record) -> dict[str, Any]:
    fields = source.fields("params", "config") if source else {}
    is_old = any(key in fields for key in ("dataset_type", "corpus_strategy", "source_max_len"))
    _dataset_type(fields.pop("dataset_type", None))
    _one_column(fields)
    _chat_template(fields, f"{target}.chatTemplate")
    result = copy_fields(fields, PreProcessDataConfig, target, _SPELLINGS)
    leave_rest(fields, reasons.PRE_PROCESS)
    _defaults(record, result, target, is_old=is_old)
    _only_for(source, result, target)
    if "chatTemplate" not in result:
        _template_columns(record, result, target)
    elif result.pop("textTemplate", None) is not None:
        record.add(NoteKind.CHANGED, f"{target}.textTemplate", "left out: chatTemplate makes the text, as in Olive.")
    return result


def _dataset_type(kind: Source | None) -> None:
    if kind is None:
        return
    if kind.value == "corpus":
        kind.left_out("rows always become texts, which is what corpus means.")
    else:
        kind.note(
            NoteKind.DECIDE,
            f"jobs have no {kind.value!r}: write textCols and textTemplate, and completionOnlyLoss to learn the answer "
            "alone.",
        )


def _one_column(fields: Fields) -> None:
    """`text_cols: text` means a list of one."""
    columns = fields.get("text_cols")
    if columns is not None and isinstance(columns.value, str):
        fields["text_cols"] = Source([columns.value], columns.path, columns.record)


def _chat_template(fields: Fields, target: str) -> None:
    """`chat_template: true` means the tokenizer's own; false and null mean none."""
    template = fields.get("chat_template")
    if template is None or not isinstance(template.value, bool):
        return
    if template.value:
        fields["chat_template"] = Source(TOKENIZERS_OWN, template.path, template.record)
    else:
        template.left_out(f"false, which is the same as leaving {target} out.")
        del fields["chat_template"]


def _only_for(source: Source | None, result: dict[str, Any], target: str) -> None:
    """Takes out what does nothing under the strategy, as in Olive, which reads it without a word."""
    for key, strategies in _ONLY_FOR.items():
        alias = to_camel(key)
        if source is None or alias not in result or result["strategy"] in strategies:
            continue
        value = result.pop(alias)
        said = f"{value!r} left out: it does nothing under {result['strategy']}."
        source.record.add(NoteKind.CHANGED, f"{target}.{alias}", said)


def _defaults(record: Record, result: dict[str, Any], target: str, *, is_old: bool) -> None:
    """Where nothing is said, Olive up to 0.6 takes rows one by one and later joins them; a job packs them."""
    said = []
    for name, value in (("strategy", "line-by-line" if is_old else "join"), ("joiner", "\n\n")):
        joins = str(result.get("strategy", "")).startswith("join")
        if name not in result and (name == "strategy" or (joins and not is_old)):
            result[name] = value
            said.append(f"{name} {value!r}")
    if said:
        record.add(NoteKind.CHANGED, target, f"Olive's defaults written out: {', '.join(said)}.")


def _template_columns(record: Record, result: dict[str, Any], target: str) -> None:
    """A template's columns are all in textCols; Olive looks at no textCols where there is a template."""
    declared = list(result.get("textCols", []))
    template = result.get("textTemplate")
    if template is None:
        return
    try:
        named = [column for _, column, _, _ in Formatter().parse(template) if column]
    except ValueError:
        return  # `finetune_api.rules` says what is wrong with the template.
    missing = [column for column in dict.fromkeys(named) if column not in declared]
    if missing:
        result["textCols"] = declared + missing
        record.add(NoteKind.CHANGED, f"{target}.textCols", f"the template's columns added: {', '.join(missing)}.")
