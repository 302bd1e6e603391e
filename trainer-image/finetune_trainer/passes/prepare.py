"""Prepare: everything that can be wrong with a job's inputs, found in seconds; what floats, pinned."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from dataclasses import asdict, dataclass, field
from typing import Any, ParamSpec, TypeVar

from finetune_api import keys, layout, rules
from finetune_api.data import DataConfig
from finetune_api.job import JobSpec
from finetune_api.lora import LoraConfig
from finetune_api.outline import outline
from finetune_api.problems import problem
from finetune_api.stage import DataPin, ExitCode, Pins, Prepared, Reason, StageResult
from finetune_trainer.adapter_check import ADAPTER_PATH, CheckedAdapter, check_adapter
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.fetch import fetch_pinned, keep_commit, kept_commit
from finetune_trainer.inspection import (
    Counts,
    Fetched,
    Read,
    count,
    count_split,
    files_report,
    overlap,
    read,
    require_samples,
)
from finetune_trainer.kept_tokens import KeptTokens, Rows
from finetune_trainer.least_memory import require_room
from finetune_trainer.model_check import CheckedModel, check_model, describe, fits_vocabulary
from finetune_trainer.model_source import open_adapter, open_model
from finetune_trainer.result import one_line
from finetune_trainer.severity import Severity
from finetune_trainer.template import Sample
from finetune_trainer.tokenizer import MODEL_PATH
from finetune_trainer.workplace import Workplace

_SHOWN_CHARACTERS = 600
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class _Inspected:
    """The job's inputs, as found good."""

    model: CheckedModel
    adapter: CheckedAdapter | None
    data: dict[str, Read]
    counts: dict[str, Counts]
    splits: list[dict[str, Any]]

    def pins(self) -> Pins:
        """What holds them fast."""
        pin = self.model.pin.model_copy(update={"adapter": self.adapter.digest if self.adapter else None})
        return Pins(model=pin, data={name: found.pin for name, found in self.data.items()})


@dataclass
class _Findings:
    """What is wrong so far: inputs are looked at to the end, so that one run names all that must be mended."""

    failures: list[StageFailure] = field(default_factory=list)

    def gather(self, look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `look` returns; None, and its failure noted, where the input is bad."""
        try:
            return look(*args, **kwargs)
        except StageFailure as failure:
            if failure.exit_code is not ExitCode.BAD_INPUT:
                raise
            self.failures.append(failure)
            return None

    def stop(self) -> None:
        """Raises the failures as one, if there are any."""
        if self.failures:
            problems = [found for failure in self.failures for found in failure.problems]
            message = "; ".join(failure.message for failure in self.failures)
            raise StageFailure(self.failures[0].reason, message, problems=problems)


def answer(place: Workplace) -> StageResult:
    """Checks the job's inputs and pins them. Raises StageFailure with all that is wrong with them."""
    spec = _spec(place)
    _write_report(place, {})
    inspected = _inspect(place, spec)
    pins = _kept(place.document.pins, inspected.pins())
    stages = keys.stage_keys(place.document.job.namespace, spec, pins)
    place.report.progress(activity="looking for what is done already")
    there = {name: place.store.whole(key) for name, key in stages.items()}
    done = {name: committed.digest for name, committed in there.items() if committed}
    _require_pinned(spec, pins, inspected.pins(), done)
    _keep_tokens(place, spec, inspected, done)
    _write_report(place, _report(place, inspected, pins, stages, done))
    prepared = Prepared(pins=pins, keys=keys.combined(stages), done=done)
    return StageResult(key=place.document.key, ok=True, attempt=place.document.attempt, prepared=prepared)


def _inspect(place: Workplace, spec: JobSpec) -> _Inspected:
    """Looks at the model and at every data config. Raises StageFailure with all that is wrong with them."""
    findings = _Findings()
    place.report.progress(activity="checking the model")
    model = findings.gather(_model, place, spec)
    adapter = findings.gather(_adapter, place, spec) if spec.input_model.adapter_path else None
    place.report.progress(activity="checking the data")
    looked = {config.name: findings.gather(_data, place, config, model) for config in place.document.data}
    data = {name: found for name, found in looked.items() if found}
    if model is None:
        findings.stop()
        raise AssertionError("a model that was refused left a finding")
    counted = {name: findings.gather(_count, place, spec, model, found) for name, found in data.items()}
    splits = [findings.gather(_split, place, spec, index, data, model) for index in _training_passes(spec, data)]
    counts = {name: found for name, found in counted.items() if found}
    for index in _training_passes(spec, data):
        findings.gather(_fit, place, spec, index, model, counts)
    findings.stop()
    return _Inspected(model, adapter, data, counts, [split for split in splits if split])


def _spec(place: Workplace) -> JobSpec:
    spec, problems = rules.check(place.document.spec or {})
    if spec is None or problems:
        message = "; ".join(str(found) for found in problems[:4])
        raise StageFailure(Reason.UNSUPPORTED, message, problems=problems)
    return spec


def _model(place: Workplace, spec: JobSpec) -> CheckedModel:
    kept = place.document.pins.model.revision if place.document.pins else None
    source = open_model(spec.input_model, place.sources, revision=kept)
    model = check_model(spec.input_model, source)
    if source.found:
        place.report.log(f"model {spec.input_model.model_path} is {source.found}")
    place.report.log(f"model {spec.input_model.model_path} {model.pin.revision or ''}: {describe(model.config)}")
    return model


def _adapter(place: Workplace, spec: JobSpec) -> CheckedAdapter:
    kept = place.document.pins.model.adapter if place.document.pins else None
    model = spec.input_model
    source = open_adapter(model, place.sources, revision=kept_commit(place, kept) if kept else None)
    adapter = check_adapter(spec, source)
    keep_commit(place, adapter.digest, source.revision)
    base = adapter.config.get("base_model_name_or_path")
    place.report.log(f"adapter {model.adapter_path} {source.revision or ''}: rank {adapter.config.get('r')}, of {base}")
    if base != model.model_path:
        place.report.log(f"the adapter was trained on {base}, and goes onto {model.model_path}", Severity.WARNING)
    return adapter


def _data(place: Workplace, config: DataConfig, model: CheckedModel | None) -> Read | None:
    """The rows of `config` as tokens; None where there is no tokenizer, and the rows were only looked at."""
    fetched = Fetched(config, fetch_pinned(place, config))
    if model is None:
        deque(fetched.samples(None), maxlen=0)
        return None
    kept = _kept_tokens(place).find(Rows(config, fetched.digest, model.tokenizer))
    found = read(fetched, model.tokenizer, place.scratch / "tokens", kept)
    keep_commit(place, found.pin.digest, next((file.commit for file in found.files if file.commit), None))
    return found


def _kept_tokens(place: Workplace) -> KeptTokens:
    return KeptTokens(place.store.tokens(), place.document, place.scratch / "kept-tokens", place.report)


def _keep_tokens(place: Workplace, spec: JobSpec, inspected: _Inspected, done: Container[str]) -> None:
    """Keeps the tokens that were made here and that a training which is still to run learns from or measures with."""
    wanted = _trained_on(spec, done)
    for name, found in inspected.data.items():
        if found.made and name in wanted:
            _kept_tokens(place).keep(found.rows(inspected.model.tokenizer), found.tokens)


def _count(place: Workplace, spec: JobSpec, model: CheckedModel, found: Read) -> Counts:
    config = found.config
    counts = count(found.tokens, config.pre_process_data_config, model.tokenizer)
    place.report.log(f"data {config.name}: {counts}")
    for sample in found.first:
        place.report.log(f"data {config.name}, a sample: {_shown(sample)}")
    fits_vocabulary(spec.input_model, model, counts.highest_id)
    if config.name in _trained_on(spec):
        require_samples(config, counts)
    return counts


def _shown(sample: Sample) -> str:
    """A sample for the log, with a mark where its completion begins."""
    marked = f"{sample.text[: sample.completion_start]}⟦{sample.text[sample.completion_start :]}⟧"
    return one_line(repr(marked), _SHOWN_CHARACTERS)


def _trained_on(spec: JobSpec, done: Container[str] = ()) -> set[str]:
    """Names of the data configs that samples are made of, rather than prompts, but for passes that are `done`."""
    configs = [item.config for item in spec.passes if isinstance(item.config, LoraConfig) and item.name not in done]
    return {name for config in configs for name in (config.train_data_config, config.eval_data_config) if name}


def _training_passes(spec: JobSpec, data: dict[str, Read]) -> list[int]:
    """Indexes of the passes whose training data could be read."""
    return [
        index
        for index, item in enumerate(spec.passes)
        if isinstance(item.config, LoraConfig) and item.config.train_data_config in data
    ]


def _split(place: Workplace, spec: JobSpec, index: int, data: dict[str, Read], model: CheckedModel) -> dict[str, Any]:
    """What a training pass's evaluation split comes to, and which measured rows it learns too."""
    item = spec.passes[index]
    assert isinstance(item.config, LoraConfig)
    train = data[item.config.train_data_config]
    found: dict[str, Any] = {"pass": item.name, "overlap": overlap(spec, item.config, data)}
    for name, rows in found["overlap"].items():
        if rows:
            place.report.log(f"{rows} rows of {name} are among those that {item.name} learns from", Severity.WARNING)
    path = f"spec.passes[{index}].config.evalDatasetSize"
    counts = count_split(item.config, train, model.tokenizer, path)
    return {**found, **{side: asdict(counted) for side, counted in counts.items()}}


def _fit(place: Workplace, spec: JobSpec, index: int, model: CheckedModel, counts: dict[str, Counts]) -> None:
    """Raises StageFailure (OutOfMemory) where a training cannot fit its system's GPUs, whatever is tried."""
    item = spec.passes[index]
    assert isinstance(item.config, LoraConfig)
    host = next((system for system in spec.systems if system.name == (item.host or spec.engine.host)), None)
    counted = counts.get(item.config.train_data_config)
    if host is None or counted is None or not host.gpus():
        return
    process = next(data for data in spec.data_configs if data.name == item.config.train_data_config)
    longest = min(counted.longest, process.pre_process_data_config.max_seq_len)
    load, config = spec.input_model.load_kwargs, item.config
    if spec.input_model.adapter_path:  # its rank counts, which is one at the least
        config = config.model_copy(update={"r": 1, "rank_pattern": {}})
    least = require_room(model.config, load, config, host, longest, f"spec.passes[{index}].config")
    if least:
        place.report.log(f"{item.name} needs on each GPU at least (GiB): {least}")


def _report(
    place: Workplace, inspected: _Inspected, pins: Pins, stages: dict[str, str], done: dict[str, str]
) -> dict[str, Any]:
    """Everything that was found out, in figures; `finetune_trainer.fetch` reads the files' tags from it.

    `tokensKey` is the content key that the data's tokens are kept under, if they are; `gc` leaves it alone for the job.
    """
    tokenizer, namespace = inspected.model.tokenizer, place.document.job.namespace
    return {
        "model": {"pin": pins.model.wire(), "files": files_report(inspected.model.files)},
        **({"adapter": {"files": files_report(inspected.adapter.files)}} if inspected.adapter else {}),
        "data": {
            name: {
                "pin": pins.data[name].wire(),
                "files": files_report([file.found for file in found.files]),
                "tokensKey": found.rows(tokenizer).key(namespace),
                **asdict(inspected.counts[name]),
            }
            for name, found in inspected.data.items()
        },
        "splits": inspected.splits,
        "keys": stages,
        "done": done,
    }


def _kept(kept: Pins | None, found: Pins) -> Pins:
    """The pins of an earlier generation where there are some, completed by what it did not use."""
    if kept is None:
        return found
    data: dict[str, DataPin] = {name: kept.data.get(name, pin) for name, pin in found.data.items()}
    return Pins(model=kept.model, data=data)


def _require_pinned(spec: JobSpec, pins: Pins, found: Pins, done: dict[str, str]) -> None:
    """Raises StageFailure (InputChanged) where a stage that is still to run would read something not pinned."""
    findings = _Findings()
    remedy = "Put back what was there, or change spec.runId to take it as it is now."
    todo = [stage for stage in outline(spec) if stage.name not in done]
    if any(stage.base for stage in todo) and pins.model.digest != found.model.digest:
        changed = problem(MODEL_PATH, spec.input_model.model_path, "the model changed since it was pinned", remedy)
        findings.failures.append(bad_input(Reason.INPUT_CHANGED, changed))
    if any(stage.base_adapter for stage in todo) and pins.model.adapter != found.model.adapter:
        changed = problem(ADAPTER_PATH, spec.input_model.adapter_path, "it changed since it was pinned", remedy)
        findings.failures.append(bad_input(Reason.INPUT_CHANGED, changed))
    for name in sorted({name for stage in todo for name in stage.data}):
        if pins.data[name].digest != found.data[name].digest:
            path = f"spec.dataConfigs[name={name}].loadDatasetConfig.dataFiles"
            changed = problem(path, name, "the files changed since they were pinned", remedy)
            findings.failures.append(bad_input(Reason.INPUT_CHANGED, changed))
    findings.stop()


def _write_report(place: Workplace, content: dict[str, Any]) -> None:
    """Writes what was found out, figures only; the first, empty one proves that the bucket can be written."""
    job = place.document.job
    body = keys.canonical({"version": 1, "job": job.wire(), **content})
    place.store.write_document(layout.report_path(job.uid, job.generation), body)
