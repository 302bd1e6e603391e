"""Olive's `passes` → `spec.passes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from finetune_api.builder import ModelBuilderConfig, SearchOptions
from finetune_api.lora import LoraConfig, QLoraConfig
from finetune_api.olive import reasons
from finetune_api.olive.copying import Fields, copy_fields, leave_rest
from finetune_api.olive.datasets import DataConfigs
from finetune_api.olive.evaluators import Evaluators
from finetune_api.olive.naming import Names
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.reading import Record, Source
from finetune_api.olive.training import training_args
from finetune_api.passes import ADAPTER_PASSES, PASS_TYPES

_SPELLINGS = {"lora_r": "r", "lora_alpha": "alpha"}
_BUILDER_SPELLINGS = {
    "block_size": "int4_block_size",
    "accuracy_level": "int4_accuracy_level",
    "is_symmetric": "int4_is_symmetric",
    "algo_config": "int4_algo_config",
    "op_types_to_quantize": "int4_op_types_to_quantize",
    "nodes_to_exclude": "int4_nodes_to_exclude",
}
_OLD_DROPOUT = 0.0
_NOT_QLORA = (
    "belongs to QLoRA: on type LoRA it has no effect, in no release of Olive. --qlora turns the pass into QLoRA, "
    "else it stays out."
)


@dataclass
class PassReader:
    """Olive's passes, read with what they refer to; a model is built for the execution provider `provider`."""

    data: DataConfigs
    systems: Names
    evaluators: Evaluators
    provider: str
    qlora: bool
    old: bool
    record: Record

    def read(self, source: Source, flows: Source | None, pipeline: Source | None) -> list[dict[str, Any]]:
        """`spec.passes`: those of the pipeline, or of the one flow, where given, else all in the order of the file."""
        wanted = pipeline or _first_flow(flows)
        if pipeline is not None and flows is not None:
            flows.left_out("the build's pipeline counts.")
        entries = _in_order(source.named(), wanted) if wanted else source.named()
        names = Names("spec.passes")
        result: list[dict[str, Any]] = []
        for name, item in entries:
            made = self._pass(name, item, names)
            if made is not None:
                result.append(made)
        return _merged(result, source)

    def _pass(self, name: str, source: Source, names: Names) -> dict[str, Any] | None:
        fields = source.fields("config")
        kind = fields.pop("type", None)
        known = {each.lower(): each for each in PASS_TYPES}.get(str(kind.value).lower() if kind else "")
        if kind is None or known is None:
            what = f"{kind.value!r} is no pass of a job" if kind else "a pass without a type"
            source.note(NoteKind.DECIDE, f"{what}; it was left out. There are: {', '.join(PASS_TYPES)}.")
            return None
        ours = names.new(name, source)
        target = f"spec.passes[name={ours}]"
        kind.land(f"{target}.type")
        if known == "LoRA" and self.qlora:
            kind.note(NoteKind.CHANGED, f"{target}.type is QLoRA (--qlora).")
            known = "QLoRA"
        made: dict[str, Any] = {"name": ours, "type": known}
        if "name" in fields:
            fields.pop("name").land(f"{target}.name")
        made |= self._placement(fields, target)
        config = self._config(known, fields, f"{target}.config")
        if config or known != "MergeAdapterWeights":
            made["config"] = config
        return made

    def _placement(self, fields: Fields, target: str) -> dict[str, Any]:
        evaluator = self.evaluators.refer(fields.pop("evaluator", None), f"{target}.evaluator")
        leave_rest({key: fields.pop(key) for key in reasons.PASS if key in fields}, reasons.PASS)
        host = self.systems.refer(fields.pop("host"), f"{target}.host") if "host" in fields else None
        return {**({"host": host} if host else {}), **({"evaluator": evaluator} if evaluator else {})}

    def _config(self, kind: str, fields: Fields, target: str) -> dict[str, Any]:
        model = _config_model(kind)
        if kind in ADAPTER_PASSES or issubclass(model, LoraConfig):
            return self._fine_tuning(model, fields, target)
        search = fields.pop("search", None) if issubclass(model, ModelBuilderConfig) else None
        config = copy_fields(fields, model, target, _BUILDER_SPELLINGS)
        if issubclass(model, ModelBuilderConfig):
            config |= _search(search, f"{target}.search")
            config["executionProvider"] = self.provider
            leave_rest(fields, reasons.MODEL_BUILDER)
        leave_rest(fields, {})
        return config

    def _fine_tuning(self, model: type[BaseModel], fields: Fields, target: str) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for key, alias in (("train_data_config", "trainDataConfig"), ("eval_data_config", "evalDataConfig")):
            name = self.data.refer(fields.pop(key), f"{target}.{alias}") if key in fields else None
            if name is not None:
                config[alias] = name
        arguments = fields.pop("training_args", None)
        if "evalDataConfig" in config and "eval_dataset_size" in fields:
            fields.pop("eval_dataset_size").note(NoteKind.CONTRADICTS, "eval_data_config is given too, and counts.")
        config |= copy_fields(fields, model, target, _SPELLINGS)
        if self.old and "loraDropout" not in config:
            config["loraDropout"] = _OLD_DROPOUT
            self.record.add(
                NoteKind.CHANGED, f"{target}.loraDropout", "Olive's default of 0.6 and earlier written out."
            )
        for key in [key for key in fields if key in QLoraConfig.model_fields]:
            fields.pop(key).note(NoteKind.CONTRADICTS, _NOT_QLORA)
        leave_rest(fields, reasons.FINE_TUNING)
        measured = bool(config.get("evalDataConfig") or config.get("evalDatasetSize"))
        config["trainingArgs"] = training_args(
            arguments, f"{target}.trainingArgs", self.record, old=self.old, measured=measured
        )
        return config


def _search(source: Source | None, target: str) -> dict[str, Any]:
    """ModelBuilder's `search`, whose members are those of genai_config.json."""
    if source is None:
        return {}
    fields = source.fields()
    options = copy_fields(fields, SearchOptions, target, {})
    leave_rest(fields, reasons.SEARCH)
    return {"search": options} if options else {}


def _config_model(kind: str) -> type[BaseModel]:
    annotation = PASS_TYPES[kind].model_fields["config"].annotation
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        raise TypeError(f"the config of {kind} is no model: {annotation!r}")
    return annotation


def _first_flow(flows: Source | None) -> Source | None:
    """The first of several orders of passes."""
    if flows is None or not isinstance(flows.value, list) or not flows.value:
        if flows is not None:
            flows.left_out("no flow is given, so all passes run in the order of the file.")
        return None
    first, *others = flows.items()
    for other in others:
        other.note(NoteKind.DECIDE, "a job has one flow; write a job for each further one.")
    return first


def _in_order(entries: list[tuple[str, Source]], wanted: Source) -> list[tuple[str, Source]]:
    """The passes that the list `wanted` names, in its order; a name means all passes of a list that it names."""
    named: dict[object, list[tuple[str, Source]]] = {}
    for name, item in entries:
        key = item.path[1] if isinstance(item.path[1], str) else name
        named.setdefault(key, []).append((name, item))
    result: list[tuple[str, Source]] = []
    for item in wanted.items():
        found = named.get(item.value) if isinstance(item.value, str) else None
        if found is None:
            item.note(NoteKind.DECIDE, f"{item.value!r} is no item of passes.")
        else:
            item.land("spec.passes")
            result += [each for each in found if each not in result]
    for _, left in (each for each in entries if each not in result):
        left.left_out("not in the order of passes that is imported.")
    return result


def _merged(passes: list[dict[str, Any]], source: Source) -> list[dict[str, Any]]:
    """The passes, with a merge between an adapter and the builder, which Olive could do without."""
    result: list[dict[str, Any]] = []
    taken = {item["name"] for item in passes}
    for item in passes:
        if item["type"] == "ModelBuilder" and result and result[-1]["type"] in ADAPTER_PASSES:
            name = "merge" if "merge" not in taken else "merge-adapter-weights"
            result.append({"name": name, "type": "MergeAdapterWeights"})
            source.record.add(NoteKind.CHANGED, f"spec.passes[name={name}]", "added: a builder takes a merged model.")
        result.append(item)
    return result
