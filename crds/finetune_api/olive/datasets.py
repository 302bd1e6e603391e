"""Olive's `data_configs` → `spec.dataConfigs`."""

from __future__ import annotations

from string import Formatter
from typing import Any

from finetune_api.data import LoadDatasetConfig, PreProcessDataConfig
from finetune_api.olive import reasons
from finetune_api.olive.copying import Fields, accepts, copy_fields, leave_rest
from finetune_api.olive.naming import Names
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.places import PLACEHOLDER_ROOT, Places, file_of
from finetune_api.olive.reading import Record, Source

_SPELLINGS = {"source_max_len": "max_seq_len", "corpus_strategy": "strategy"}
# What a strategy that jobs do not have comes nearest to.
_NEAREST = {
    "line-by-line-random": "line-by-line",
    "join-random": "join",
    "join-sliding-window": "join",
}


def data_configs(source: Source, places: Places, names: Names) -> list[dict[str, Any]]:
    """`spec.dataConfigs` for Olive's list or map of data configs; `names` learns how they are called now."""
    return [_data_config(name, item, places, names) for name, item in source.named()]


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
        kind.note(NoteKind.DECIDE, f"jobs know HuggingfaceContainer only: make the rows of {kind.value} a JSON file.")


def _load(source: Source | None, places: Places, name: str, target: str, record: Record) -> dict[str, Any]:
    fields = source.fields("params", "config") if source else {}
    split = fields.get("split")
    wanted = split.value if split else None
    files = fields.pop("data_files", None)
    result: dict[str, Any] = {"dataFiles": _files(files, wanted, places, f"{target}.dataFiles")}
    if not result["dataFiles"]:
        uri = f"{places.root or PLACEHOLDER_ROOT}/{name}.jsonl"
        result["dataFiles"] = [uri]
        record.add(NoteKind.DECIDE, f"{target}.dataFiles", f"{uri} stands for files, of which the input names none.")
    _format(fields, f"{target}.dataFiles")
    if split is not None and not accepts(LoadDatasetConfig, "split", wanted):
        split.note(
            NoteKind.DECIDE,
            f"a file's rows are all taken (split train), not {wanted!r}; evalDatasetSize of the pass splits off rows "
            "for evaluation, seeded and shuffled.",
        )
        del fields["split"]
    result |= copy_fields(fields, LoadDatasetConfig, target, {})
    leave_rest(fields, reasons.LOAD_DATASET)
    return result


def _format(fields: Fields, target: str) -> None:
    name = fields.get("data_name")
    if name is not None and not accepts(LoadDatasetConfig, "data_name", name.value):
        name.note(
            NoteKind.DECIDE,
            f"jobs read json files, not {name.value!r}: write the rows as one JSON object per line, and its URI at "
            f"{target}.",
        )
        del fields["data_name"]


def _files(source: Source | None, split: Any, places: Places, target: str) -> list[str]:
    if source is None or source.value is None:
        if source is not None:
            source.left_out("null, which is the same as leaving it out.")
        return []
    if isinstance(source.value, dict) and "type" not in source.value:
        source = _of_split(source, split)
    found: list[str] = []
    for item in source.items() if source else []:
        uri = file_of(item, places, f"{target}[{len(found)}]")
        if uri is not None:
            found.append(uri)
    return found


def _of_split(source: Source, split: Any) -> Source | None:
    """The files of the split that is taken, of a map from splits to files."""
    fields = source.fields()
    wanted = str(split or "train").split("[", 1)[0]
    chosen = fields.pop(wanted, None)
    for key, item in fields.items():
        item.left_out(f"the files of split {key!r}, of which only {wanted!r} is taken; write a data config for it.")
    return chosen


def _pre_process(source: Source | None, target: str, record: Record) -> dict[str, Any]:
    fields = source.fields("params", "config") if source else {}
    is_old = any(key in fields for key in ("dataset_type", "corpus_strategy", "source_max_len"))
    _dataset_type(fields.pop("dataset_type", None))
    strategy = _strategy(fields, f"{target}.strategy")
    _one_column(fields)
    result = copy_fields(fields, PreProcessDataConfig, target, _SPELLINGS) | strategy
    leave_rest(fields, reasons.PRE_PROCESS)
    if not is_old:
        _newer_defaults(record, result, target)
    _template_columns(record, result, target)
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


def _strategy(fields: Fields, target: str) -> dict[str, str]:
    for key in ("strategy", "corpus_strategy"):
        source = fields.get(key)
        nearest = _NEAREST.get(source.value) if source and isinstance(source.value, str) else None
        if source and nearest and not accepts(PreProcessDataConfig, "strategy", source.value):
            source.note(NoteKind.CHANGED, f"{target} is {nearest}: jobs have no {source.value}.")
            del fields[key]
            return {"strategy": nearest}
    return {}


def _one_column(fields: Fields) -> None:
    """`text_cols: text` means a list of one."""
    columns = fields.get("text_cols")
    if columns is not None and isinstance(columns.value, str):
        fields["text_cols"] = Source([columns.value], columns.path, columns.record)


def _newer_defaults(record: Record, result: dict[str, Any], target: str) -> None:
    """Olive 0.7 and later joins rows where nothing is said; a job's own default is line-by-line."""
    said = []
    for name, value in (("strategy", "join"), ("joiner", "\n\n")):
        if name not in result and (name == "strategy" or result["strategy"] == "join"):
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
