"""The parts of a configuration, each read by its own module, put together in the order in which they refer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune_api.engine import Engine
from finetune_api.olive import providers, reasons
from finetune_api.olive.builds import take_build
from finetune_api.olive.copying import Fields, copy_fields, leave_rest
from finetune_api.olive.datasets import DataConfigs
from finetune_api.olive.evaluators import Evaluators
from finetune_api.olive.models import input_model
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.options import Options
from finetune_api.olive.passes import PassReader
from finetune_api.olive.places import PLACEHOLDER_ROOT, Places
from finetune_api.olive.reading import Record, Source
from finetune_api.olive.systems import Systems
from finetune_api.system import GPU

DEFAULT_NAME = "finetune"
MAX_JOB_NAME = 63
# Olive's newer releases take the engine's keys at the top level too.
_ENGINE_KEYS = frozenset(
    {*reasons.ENGINE, "host", "target", "evaluator", "evaluate_input_model", "search_strategy", "execution_providers"}
)


class Assembly:
    """One import: `top` are the members of the configuration, `record` what became of each."""

    def __init__(self, top: Fields, options: Options, record: Record) -> None:
        self.systems = Systems()
        self._top = top
        self._engine = top.pop("engine").fields("config") if "engine" in top else {}
        for key in [key for key in top if key in _ENGINE_KEYS]:
            self._engine.setdefault(key, top.pop(key))
        self._options = options
        self._record = record
        self._places = Places(options.data_root, options.here, options.exists)

    def name(self) -> str:
        """The job's name: the option, else the input's `workflow_id`."""
        workflow = self._top.pop("workflow_id", None)
        chosen = self._options.name
        if workflow is not None and chosen is None and workflow.value != "default_workflow":
            chosen = str(workflow.value)
            workflow.land("metadata.name")
        elif workflow is not None:
            workflow.left_out("the job's name is metadata.name.")
        return job_name(chosen or DEFAULT_NAME)

    def spec(self) -> dict[str, Any]:
        """`spec`, its parts in the order of the input."""
        model = self._top.pop("input_model")
        data = DataConfigs(self._places)
        result: dict[str, Any] = {
            "inputModel": input_model(model, self._places),
            "dataConfigs": data.specs,
        }
        if "data_configs" in self._top:
            data.read(self._top.pop("data_configs"))
        builds = self._top.pop("builds", None)
        pipeline = take_build(builds, self._options.build, self._engine) if builds else None
        evaluators = Evaluators(data, self._record)
        if "evaluators" in self._top:
            evaluators.read(self._top.pop("evaluators"))
        host, target = self._host_and_target()
        sources = self._provider_sources(target)
        provider = self._provider(host, target, sources)
        reader = PassReader(
            data, self.systems.names, evaluators, provider, self._options.qlora, _is_old(model), self._record
        )
        passes = reader.read(self._top.pop("passes"), self._top.pop("pass_flows", None), pipeline)
        providers.say(sources, provider, passes)
        engine = self._engine_spec(host, target, evaluators)
        result |= {
            "systems": self.systems.specs,
            "passes": passes,
            **({"evaluators": evaluators.specs} if evaluators.specs else {}),
            "engine": engine,
            **self._storage(),
        }
        leave_rest(self._top, reasons.TOP)
        return result

    def _host_and_target(self) -> tuple[str, str]:
        if "systems" in self._top:
            for name, source in self._top.pop("systems").named():
                self.systems.add(name, source)
        places = {key: self._place(key) for key in ("host", "target")}
        host = places["host"] or self._local()
        return host, places["target"] or host

    def _place(self, key: str) -> str | None:
        """The system that the engine's `host` or `target` is, by name or written out there."""
        source = self._engine.pop(key, None)
        if source is None:
            return None
        if isinstance(source.value, Mapping):
            return self.systems.add(key, source)
        return self.systems.names.refer(source, f"spec.engine.{key}")

    def _local(self) -> str:
        name = self.systems.add_local()
        said = "added, and made engine.host: the input names no host. It is a pod of the trainer image."
        self._record.add(NoteKind.CHANGED, f"spec.systems[name={name}]", said)
        return name

    def _provider_sources(self, target: str) -> list[Source]:
        """The execution providers that hold for the target: its own, else the engine's."""
        whole = self._engine.pop("execution_providers", None)
        general = whole.items() if whole else []
        own = self.systems.providers.pop(target, [])
        for other in [item for items in self.systems.providers.values() for item in items]:
            other.left_out("this system is not the target; a model is built for the target's provider.")
        return own + general

    def _provider(self, host: str, target: str, sources: list[Source]) -> str:
        """What models are built for; a host without accelerators gets a GPU where that is CUDA."""
        gpus = {spec["name"] for spec in self.systems.specs if "resources" in spec}
        provider = providers.chosen(sources, gpu=target in gpus)
        if self._options.cpu:
            self.systems.take_gpus()
            said = f"built for the CPU, and no system asks for {GPU} (--cpu)."
            self._record.add(NoteKind.CHANGED, "spec.passes", said)
            return providers.CPU
        if provider == providers.CUDA and host not in gpus:
            self.systems.give_gpu(host)
            said = f"asks for one {GPU}, since models are built for CUDA; add cpu and memory to its resources."
            self._record.add(NoteKind.CHANGED, f"spec.systems[name={host}].resources", said)
        return provider

    def _engine_spec(self, host: str, target: str, evaluators: Evaluators) -> dict[str, Any]:
        engine = self._engine
        evaluator = evaluators.refer(engine.pop("evaluator", None), "spec.engine.evaluator")
        if "evaluate_input_model" in engine and not evaluators.specs:
            engine.pop("evaluate_input_model").left_out("without an evaluator nothing is measured.")
        for key in ("cache_dir", "output_dir"):
            if key in engine:
                engine.pop(key).left_out(reasons.ENGINE[key])
        searched = engine.get("search_strategy")
        if searched is not None and searched.value is not False:
            _search(engine.pop("search_strategy"))
        result = copy_fields(engine, Engine, "spec.engine", {})
        leave_rest(engine, reasons.ENGINE)
        return {"host": host, "target": target, **({"evaluator": evaluator} if evaluator else {}), **result}

    def _storage(self) -> dict[str, Any]:
        if self._options.storage is None and self._options.here:
            return {}
        if self._options.storage is None:
            said = f"{PLACEHOLDER_ROOT} stands for your bucket; write its URI, or give --storage."
            self._record.add(NoteKind.DECIDE, "spec.storage.uri", said)
        said = "name the Secret with the bucket's keys, unless the pods' service account may use the bucket."
        self._record.add(NoteKind.DECIDE, "spec.storage.credentialsSecretRef", said)
        return {"storage": {"uri": self._options.storage or f"{PLACEHOLDER_ROOT}/finetune"}}


def job_name(text: str) -> str:
    """`text` as the name of a Kubernetes object that fits a label."""
    name = re.sub(r"[^a-z0-9-]+", "-", text.lower())[:MAX_JOB_NAME].strip("-")
    return name or DEFAULT_NAME


def _is_old(model: Source) -> bool:
    """Whether the file is of Olive 0.6 or earlier, whose models have an `hf_config`."""
    value = model.value if isinstance(model.value, Mapping) else {}
    inner = value.get("config")
    return "hf_config" in value or (isinstance(inner, Mapping) and "hf_config" in inner)


def _search(source: Source) -> None:
    if source.value:
        source.note(NoteKind.DECIDE, "jobs search nothing: write the values that you want into the passes.")
    else:
        source.left_out("passes run in the order of spec.passes.")
