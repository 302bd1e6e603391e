"""Olive's `evaluators` → `spec.evaluators`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_api.evaluators import HIGHER_IS_BETTER, ROW_METRICS, Evaluator, Goal, Metric, MetricType
from finetune_api.olive import reasons
from finetune_api.olive.copying import Fields, accepts, copy_fields, leave_rest
from finetune_api.olive.datasets import DataConfigs
from finetune_api.olive.naming import Names
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.reading import Record, Source

_MOST_METRICS = next(
    mark.max_length for mark in Evaluator.model_fields["metrics"].metadata if hasattr(mark, "max_length")
)
# Olive's type of a metric and its sub-type → ours; a speed's sub-type is which of the requests' figures counts.
_STATISTICS = {"avg": "mean", "p50": "p50", "p90": "p90", "p99": "p99"}
_OURS: dict[tuple[str, str], tuple[MetricType, str | None]] = {
    ("accuracy", "accuracy_score"): ("accuracy", None),
    ("accuracy", "exact_match"): ("accuracy", None),
    ("accuracy", "perplexity"): ("perplexity", None),
    ("throughput", "avg"): ("throughput", None),
    ("size_on_disk", "bytes"): ("size_on_disk", None),
    **{("latency", name): ("latency", ours) for name, ours in _STATISTICS.items()},
}
_SPEED = {"warmup_num": "warmup_runs", "repeat_test_num": "runs"}
# What Olive measures under these names is not quite what a job does.
_AS_IT_IS = "a job measures it too."
_MEANS = {
    "accuracy": "the share of rows whose generated answer equals the row's completion; Olive compares classes.",
    "throughput": "generated tokens per second; Olive counts calls of the model, so look at a goal's value.",
    "perplexity": "exp of the mean loss over the tokens of the data config's texts.",
}


@dataclass
class Evaluators:
    """The evaluators of a job: as they stand in its spec. `data` are the data configs that metrics may name."""

    data: DataConfigs
    record: Record
    specs: list[dict[str, Any]] = field(default_factory=list)
    names: Names = field(default_factory=lambda: Names("spec.evaluators"))

    def read(self, source: Source) -> None:
        """Add all of Olive's map or list of evaluators."""
        for name, item in source.named():
            self.add(name, item)

    def add(self, name: str, source: Source) -> str | None:
        """Add the evaluator that Olive calls `name`; its name now, None where nothing of it can be measured."""
        fields = source.fields("config")
        given, kind = fields.pop("name", None), fields.pop("type", None)
        if kind is not None and kind.value is not None:
            said = f"{kind.value!r} runs tasks or a backend of its own; a job measures metrics alone."
            kind.note(NoteKind.DECIDE, said)
        metrics = fields.pop("metrics", None)
        leave_rest(fields, reasons.EVALUATOR)
        ours = self.names.new(name, source)
        target = f"spec.evaluators[name={ours}]"
        names, found = Names(f"{target}.metrics"), list[dict[str, Any]]()
        for item in metrics.items() if metrics else []:
            self._metrics(item, names, target, found)
        if not found:
            del self.names.ours[name]
            source.note(NoteKind.DECIDE, "a job measures none of its metrics: write spec.evaluators yourself.")
            return None
        if given is not None:
            given.land(f"{target}.name")
        self.specs.append({"name": ours, "metrics": found})
        return ours

    def refer(self, source: Source | None, target: str) -> str | None:
        """Our name for the evaluator that `source` names or is, which stands at `target` of the job then."""
        if source is None:
            return None
        if isinstance(source.value, Mapping):
            return self.add(target.rpartition(".")[2], source)
        return self.names.refer(source, target)

    def _metrics(self, source: Source, names: Names, target: str, found: list[dict[str, Any]]) -> None:
        """Adds one metric of ours to `found` for each sub-type of Olive's that a job measures."""
        fields = source.fields()
        name, kind = fields.pop("name", None), fields.pop("type", None)
        word = str(kind.value).lower() if kind else "?"
        subs, data = fields.pop("sub_types", None), fields.pop("data_config", None)
        batch = self._user_config(fields)
        leave_rest(fields, reasons.METRIC)
        there = self._known(data)
        before = len(found)
        for sub in subs.items() if subs else []:
            if len(found) == _MOST_METRICS:
                sub.note(NoteKind.DECIDE, f"an evaluator has at most {_MOST_METRICS} metrics; write another one.")
                continue
            called = str(name.value) if name and name.value else word
            spec = self._metric(sub, word, there, names, called, target)
            if spec is not None:
                speed = spec["type"] in ("latency", "throughput")
                found.append({**spec, **(batch if batch and speed else {})})
        added = found[before:]
        if data is not None and any("dataConfig" in item for item in added):
            data.land(f"{target}.metrics")
        elif data is not None and there is not None and isinstance(data.value, str):
            data.left_out("nothing of this metric reads rows.")
        for item in (name, kind):
            if item is not None and added:
                item.note(NoteKind.CHANGED, f"{added[0]['type']}: {_MEANS.get(added[0]['type'], _AS_IT_IS)}")
            elif item is not None:
                item.note(NoteKind.DECIDE, "nothing of this metric can be measured by a job.")

    def _known(self, source: Source | None) -> str | None:
        """Our name of the data config that a metric names."""
        if source is None or source.value is None:
            return None
        if isinstance(source.value, Mapping):
            return self.data.refer(source, "spec.evaluators.measured")
        found = self.data.names.ours.get(source.value) if isinstance(source.value, str) else None
        if found is None:
            source.note(NoteKind.DECIDE, f"{source.value!r} is no item of {self.data.names.of}.")
        return found

    def _user_config(self, fields: Fields) -> dict[str, Any] | None:
        """`batchSize`, the one thing of `user_config` that a job knows."""
        if "user_config" not in fields:
            return None
        inner = fields.pop("user_config").fields()
        batch = inner.pop("batch_size", None)
        leave_rest(inner, reasons.USER_CONFIG)
        if batch is None:
            return None
        if isinstance(batch.value, int) and not isinstance(batch.value, bool) and 1 <= batch.value <= 256:
            batch.note(NoteKind.CHANGED, "batchSize of latency and throughput; other metrics choose their own.")
            return {"batchSize": batch.value}
        batch.left_out(f"{batch.value!r} is no number of prompts between 1 and 256.")
        return None

    def _metric(
        self, source: Source, kind: str, data: str | None, names: Names, name: str, target: str
    ) -> dict[str, Any] | None:
        fields = source.fields() if isinstance(source.value, Mapping) else {"name": source}
        sub = fields.pop("name", None)
        word = str(sub.value) if sub else "?"
        ours = _OURS.get((kind, word))
        if ours is None:
            known = ", ".join(f"{type_} {name_}" for type_, name_ in _OURS)
            source.note(NoteKind.DECIDE, f"a job does not measure {kind} {word}. There are: {known}.")
            return None
        if ours[0] in ROW_METRICS and data is None:
            source.note(NoteKind.DECIDE, f"{ours[0]} is about rows: name a data config in spec.evaluators.")
            return None
        called = names.new(f"{name}-{word}" if name in names.ours else name, source)
        path = f"{target}.metrics[name={called}]"
        spec: dict[str, Any] = {"name": called, "type": ours[0]}
        if ours[1] is not None:
            spec["statistic"] = ours[1]
        if data is not None and ours[0] != "size_on_disk":
            spec["dataConfig"] = data
        if sub is not None:
            sub.land(f"{path}.type")
        spec |= _goal(fields.pop("goal", None), path) | _speed(fields.pop("metric_config", None), ours[0], path)
        _direction(fields.pop("higher_is_better", None), ours[0])
        leave_rest(fields, reasons.SUB_TYPE)
        return spec


def _goal(source: Source | None, path: str) -> dict[str, Any]:
    """A goal whole, or none of it."""
    if source is None or source.value is None:
        if source is not None:
            source.left_out("null, which is the same as leaving it out.")
        return {}
    fields = source.fields()
    given = {key: item.value for key, item in fields.items() if key in Goal.model_fields}
    if set(given) == set(Goal.model_fields) and all(accepts(Goal, key, value) for key, value in given.items()):
        goal = copy_fields(fields, Goal, f"{path}.goal", {})
        leave_rest(fields, {})
        return {"goal": goal}
    source.note(
        NoteKind.DECIDE, f"{source.value!r} is no goal: it has a type, and a value of 0 or more. It was left out."
    )
    return {}


def _speed(source: Source | None, kind: str, path: str) -> dict[str, Any]:
    """How often is measured; of other metrics `metric_config` is torchmetrics' own."""
    if source is None:
        return {}
    if kind not in ("latency", "throughput"):
        source.left_out("belongs to torchmetrics; answers and losses are compared by the trainer itself.")
        return {}
    fields = source.fields()
    copied = copy_fields(fields, Metric, path, _SPEED)
    leave_rest(fields, {"sleep_num": "requests follow each other at once."})
    return copied


def _direction(source: Source | None, kind: str) -> None:
    """A metric's type says which way is better; Olive's word for it may be the other way round."""
    if source is None:
        return
    better = kind in HIGHER_IS_BETTER
    if source.value is better or source.value is None:
        source.left_out(f"of {kind} {'higher' if better else 'lower'} is better; its type says so.")
    else:
        source.note(NoteKind.CONTRADICTS, f"of {kind} {'higher' if better else 'lower'} is better; look at the goal.")
