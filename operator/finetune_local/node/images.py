"""Images: which reference stands for which program. There is no registry on a local node."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune_local.client import Object


@dataclass(frozen=True)
class Image:
    """What a Dockerfile would say: ENTRYPOINT, CMD and ENV."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


Images = Mapping[str, Image]

# `local/any` has no program of its own: its containers say which by `command`.
ANY = "local/any"
DEFAULT_IMAGES: Images = {
    "finetune-trainer:latest": Image(entrypoint=("python", "-m", "finetune_trainer")),
    ANY: Image(),
}

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def words(image: Image, container: Object) -> list[str]:
    """The words that the container runs, before any expansion: `command` replaces ENTRYPOINT and CMD."""
    command = container.get("command")
    start = list(command or image.entrypoint)
    default = [] if command else list(image.command)
    return start + list(container.get("args") or default)


def resolve(words: list[str]) -> list[str]:
    """`words` with Python as the one that this process runs in, whose packages the local images share."""
    return [sys.executable, *words[1:]] if words and words[0] in ("python", "python3") else words


def base_environment(image: Image) -> dict[str, str]:
    """What a container finds before its own env: this Python's programs first on PATH, nothing of the caller's."""
    programs = Path(sys.executable).parent
    return {"PATH": f"{programs}:{SYSTEM_PATH}", "LANG": "C.UTF-8", **image.environment}
