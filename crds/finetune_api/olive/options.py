"""What an import is told beside the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """How to import.

    name: the job's; else the input's workflow_id. data_root: the URI below which local paths are now. storage: where
    outputs go (`s3://bucket/prefix`). qlora: make LoRA passes QLoRA. here: the job is for this machine, so local paths
    stay and the storage is filled in later; `exists` then tells folders from hub ids. cpu: ask for no GPU. build: of
    several builds, the one to import; else the first.
    """

    name: str | None = None
    data_root: str | None = None
    storage: str | None = None
    qlora: bool = False
    here: bool = False
    exists: Callable[[str], bool] = field(default=lambda _path: False)
    cpu: bool = False
    build: str | None = None
