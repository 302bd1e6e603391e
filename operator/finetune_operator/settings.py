"""The operator's own settings, from its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from finetune_operator.logs import FORMATS

PREFIX = "FINETUNE_"
MIN_LEASE_SECONDS = 3
PULL_POLICIES = ("", "Always", "IfNotPresent", "Never")


@dataclass(frozen=True)
class Settings:
    """What an operator's administrator may set; each field is the environment variable FINETUNE_<FIELD>.

    Durations are seconds. `namespaces` empty means all of them; `namespace` is the operator's own, in which no job
    runs. Ports of 0 are not opened. `lease` is the name of the Lease, in that namespace, which one of several
    replicas holds; empty means that there is but one. `log_format` is text or json. After `stuck_seconds` of one piece
    of work, or of a watch that shows nothing new, the liveness probe fails; every `resync_seconds` lists are compared
    with what the watches showed. `allowed_hosts` are storage hosts that jobs may use although they are loopback or
    link-local addresses: those of a local cluster. After `free_retries` endings from outside, which cost no attempt,
    the next ones do. A node that is silent for `node_unreachable_after` is given up. `image_pull_policy` is that of the
    stages' pods; empty leaves it to Kubernetes, which pulls `latest` each time. Raises ValueError for what cannot work.
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
    free_retries: int = 20
    node_unreachable_after: float = 300.0
    workers: int = 8
    request_timeout: float = 30.0
    liveness_port: int = 0
    metrics_port: int = 0
    lease: str = ""
    lease_seconds: int = 15
    log_format: str = "text"
    stuck_seconds: float = 300.0
    resync_seconds: float = 300.0
    default_cpu: str = "1"
    default_memory: str = "4Gi"
    light_cpu: str = "250m"
    light_memory: str = "1Gi"
    scratch_size: str = "64Gi"
    termination_grace: int = 60
    image_pull_policy: str = ""

    def __post_init__(self) -> None:
        if self.log_format not in FORMATS:
            raise ValueError(f"{PREFIX}LOG_FORMAT={self.log_format!r}: no log format; write {' or '.join(FORMATS)}")
        if self.lease_seconds < MIN_LEASE_SECONDS:
            remedy = f"too short to be renewed in; give it {MIN_LEASE_SECONDS} or more"
            raise ValueError(f"{PREFIX}LEASE_SECONDS={self.lease_seconds}: {remedy}")
        if self.image_pull_policy not in PULL_POLICIES:
            remedy = f"no pull policy; write {', '.join(PULL_POLICIES[1:])}, or leave it out"
            raise ValueError(f"{PREFIX}IMAGE_PULL_POLICY={self.image_pull_policy!r}: {remedy}")

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
