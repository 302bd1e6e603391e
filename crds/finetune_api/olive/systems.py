"""Olive's `systems`, `host` and `target` → `spec.systems` and `spec.engine`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finetune_api.olive import reasons
from finetune_api.olive.copying import Fields, accepts, leave_rest
from finetune_api.olive.naming import Names
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.places import is_placeholder
from finetune_api.olive.reading import Source
from finetune_api.system import GPU, System

LOCAL = "local"
_OWN_POD = {
    "azureml": "AzureML",
    "docker": "Docker",
    "pythonenvironment": "PythonEnvironment",
    "isolatedort": "IsolatedORT",
}
_DOCKER = ("aml_docker_config", "local_docker_config")
_DOCKER_KEYS = ("dockerfile", "build_context_path", "build_args", "image_name", "run_params")


@dataclass
class Systems:
    """The systems of a job: as they stand in its spec, and what each can compute on."""

    specs: list[dict[str, Any]] = field(default_factory=list)
    names: Names = field(default_factory=lambda: Names("spec.systems"))
    providers: dict[str, list[Source]] = field(default_factory=dict)
    conda_files: list[str] = field(default_factory=list)

    def add(self, name: str, source: Source) -> str:
        """Add the system that Olive calls `name`; its name now."""
        ours = self.names.new(name, source)
        target = f"spec.systems[name={ours}]"
        fields = source.fields("config")
        if "name" in fields:
            fields.pop("name").land(f"{target}.name")
        local = _kind(fields.pop("type", None), target)
        gpu = self._accelerators(fields.pop("accelerators", None), ours, target)
        _token(fields.pop("hf_token", None))
        _compute(fields.pop("aml_compute", None), target)
        self._docker(fields, target)
        nodes = _nodes(fields.pop("instance_count", None), target)
        leave_rest(fields, reasons.SYSTEM)
        self.specs.append({"name": ours, "type": "LocalSystem" if local else "Kubernetes", **nodes})
        if gpu:
            self.give_gpu(ours)
        return ours

    def add_local(self) -> str:
        """Olive's own default: the machine that it runs on, which is a pod here."""
        name = LOCAL
        while name in self.names.ours.values():
            name += "-pod"
        self.names.ours[name] = name
        self.specs.append({"name": name, "type": "LocalSystem"})
        return name

    def give_gpu(self, name: str) -> None:
        """Let the pods of system `name` ask for a GPU."""
        for spec in self.specs:
            if spec["name"] == name:
                spec["resources"] = {"limits": {GPU: 1}}

    def take_gpus(self) -> None:
        """Let no pod ask for a GPU."""
        for spec in self.specs:
            spec.pop("resources", None)

    def _accelerators(self, source: Source | None, name: str, target: str) -> bool:
        gpu = False
        for item in source.items() if source else []:
            if isinstance(item.value, str):
                gpu |= _device(item, target)
                continue
            fields = item.fields()
            if "device" in fields:
                gpu |= _device(fields.pop("device"), target)
            if "execution_providers" in fields:
                self.providers[name] = fields.pop("execution_providers").items()
            for rest in fields.values():
                rest.left_out("an accelerator's memory is its node's; write nodeSelector to choose one.")
        return gpu

    def _conda(self, source: Source) -> None:
        if isinstance(source.value, str) and source.value not in self.conda_files:
            self.conda_files.append(source.value)
        source.left_out("the trainer image has packages of its own; --conda FILE lists which of this file are in it.")

    def _docker(self, fields: Fields, target: str) -> None:
        for key in [key for key in _DOCKER if key in fields]:
            for inner, item in fields.pop(key).fields().items():
                if inner == "conda_file_path":
                    self._conda(item)
                else:
                    _image(item, target)
        for key in [key for key in _DOCKER_KEYS if key in fields]:
            _image(fields.pop(key), target)


def _kind(kind: Source | None, target: str) -> bool:
    """Whether the system is Olive's LocalSystem."""
    name = str(kind.value) if kind else "LocalSystem"
    if kind is None:
        return True
    kind.land(f"{target}.type")
    if name.lower() in _OWN_POD:
        kind.note(NoteKind.CHANGED, f"{name} becomes Kubernetes: each stage is a pod of the trainer image.")
        return False
    if name.lower() != "localsystem":
        kind.note(NoteKind.DECIDE, f"{name} is unknown; a pod of the trainer image takes its place.")
        return False
    return True


def _device(source: Source, target: str) -> bool:
    device = str(source.value).lower()
    if device == "gpu":
        source.land(f"{target}.resources.limits.{GPU}")
        source.note(NoteKind.CHANGED, f"{target} asks for one {GPU}; add cpu and memory to its resources.")
        return True
    if device == "cpu":
        source.left_out(f"{target} asks for no GPU, which is what cpu means.")
    else:
        source.note(NoteKind.DECIDE, f"{source.value!r} is no device of a trainer image: cpu and gpu are.")
    return False


def _nodes(source: Source | None, target: str) -> dict[str, int]:
    """AzureML's instances of a compute are pods that train together."""
    if source is None or source.value == 1:
        if source is not None:
            source.left_out("one pod, which is a system's default.")
        return {}
    if accepts(System, "nodes", source.value):
        source.land(f"{target}.nodes")
        source.note(
            NoteKind.CHANGED, f"{source.value} pods of a training pass train together; other stages run in one."
        )
        return {"nodes": source.value}
    source.note(NoteKind.DECIDE, f"{source.value!r} is no number of pods; write {target}.nodes.")
    return {}


def _token(source: Source | None) -> None:
    if source is None:
        return
    if source.value:
        source.note(
            NoteKind.DECIDE,
            "put the hub token into a Secret of the job's namespace and name it in spec.inputModel.tokenSecretRef "
            "(name, key); a model that is neither private nor gated needs none.",
        )
    else:
        source.left_out("no hub token, as a job has it where it names none.")


def _compute(source: Source | None, target: str) -> None:
    if source is not None:
        word = "the template's placeholder; it" if is_placeholder(source.value) else f"compute {source.value!r}"
        source.note(
            NoteKind.DECIDE,
            f"{word} becomes nodes of the cluster: write {target}.nodeSelector and tolerations where the GPU's nodes "
            "have labels and taints, and resources.",
        )


def _image(source: Source, target: str) -> None:
    word = "the template's placeholder" if is_placeholder(source.value) else f"{source.value!r}"
    source.note(
        NoteKind.DECIDE,
        f"{word} has no trainer in it: the operator's own image is used. For packages of your own build one FROM the "
        f"trainer image, and name it in {target}.image.",
    )
