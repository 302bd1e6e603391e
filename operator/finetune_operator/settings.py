"""The operator's own settings, from its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

PREFIX = "FINETUNE_"


@dataclass(frozen=True)
class Settings:
    """What an operator's administrator may set; each field is the environment variable FINETUNE_<FIELD>.

    Durations are seconds. `namespaces` empty means all of them; `namespace` is the operator's own, in which no job
    runs. Ports of 0 are not opened. `lease` is the name of the Lease, in that namespace, which one of several
    replicas holds; empty means that there is but one. `allowed_hosts` are storage hosts that jobs may use although they
    are loopback or link-local addresses: those of a local cluster.
    """

    trainer_image: str = "finetune-trainer:latest"
    light_image: str = ""
    namespaces: tuple[str, ...] = ()
    namespace: str = ""
    allowed_hosts: tuple[str, ...] = ()
    progress_interval: float = 10.0
    progress_in_flight: int = 4
    retry_backoff: float = 10.0
    retry_backoff_limit: float = 300.0
    workers: int = 8
    request_timeout: float = 30.0
    liveness_port: int = 0
    metrics_port: int = 0
    lease: str = ""
    default_cpu: str = "1"
    default_memory: str = "4Gi"
    light_cpu: str = "250m"
    light_memory: str = "1Gi"
    scratch_size: str = "64Gi"
    termination_grace: int = 60

    @property
    def image_for_light_stages(self) -> str:
        """The image of prepare, publish and probe, which need neither torch nor a GPU."""
        return self.light_image or self.trainer_image


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Settings from FINETUNE_* variables. Raises ValueError naming the variable that cannot be read."""
    values: dict[str, object] = {}
    for field in fields(Settings):
        name = PREFIX + field.name.upper()
        if name in environment:
            values[field.name] = _read(name, environment[name], field.default)
    return Settings(**values)  # type: ignore[arg-type]  # each value has its field's own type


def _read(name: str, text: str, default: object) -> object:
    if isinstance(default, tuple):
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            raise ValueError(f"{name}={text!r}: not a number; unset it or give it a number") from None
    return text
