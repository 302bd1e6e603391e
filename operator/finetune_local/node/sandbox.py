"""A pod's folder on this machine: its volumes, its containers' roots, and all that a process is started with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from finetune_local.client import Object, uid_of
from finetune_local.node import environment, images, volumes
from finetune_local.node.container import Container, Launch
from finetune_local.node.environment import Localizer, NodeFacts
from finetune_local.node.images import Image
from finetune_local.node.values import Objects


@dataclass(frozen=True)
class Folders:
    """Where a node keeps its pods, the volumes of claims, and the logs that the API server reads."""

    pods: Path
    claims: Path
    logs: Path


class Sandbox:
    """One pod's files. Nothing here talks to the API server."""

    def __init__(self, folders: Folders, pod: Object, facts: NodeFacts, family: str) -> None:
        self._pod, self._facts, self._family = pod, facts, family
        metadata = pod["metadata"]
        self._folder = folders.pods / _folder_name(uid_of(pod))
        self._logs = folders.logs / metadata["namespace"] / metadata["name"] / metadata["uid"]
        self._maker = volumes.Volumes(pod, self._folder / "volumes", folders.claims, facts)
        self._volumes: dict[str, Path] = {}

    def make_volume(self, volume: Object, found: Objects) -> None:
        """Make one volume. Raises MissingObjectError for what may still come, else VolumeError or ValueError."""
        self._volumes[volume["name"]] = self._maker.make(volume, found)

    def launch(self, container: Container, image: Image, found: Objects) -> Launch:
        """Lay out the container's mounts and say how to start it. Raises as `make_volume` does."""
        spec, root = container.spec, self._root(container)
        local = Localizer(self._pod, spec, root)
        variables = environment.environment(self._pod, spec, found, self._facts, self._base(image), local)
        volumes.mount(root, spec, self._volumes)
        message = self.message_file(container)
        message.parent.mkdir(parents=True, exist_ok=True)
        message.write_bytes(b"")
        log = self._log(container)
        if container.started and log.exists():
            log.replace(log.with_suffix(".previous.log"))
        return Launch(
            words=images.resolve(environment.arguments(images.words(image, spec), variables, local)),
            environment=variables,
            directory=Path(local.paths(spec.get("workingDir") or str(self._folder))),
            log=log,
            family=self._family,
            member=f"{uid_of(self._pod)}/{container.name}",
        )

    def message_file(self, container: Container) -> Path:
        """Where the container leaves its termination message."""
        return Path(f"{self._root(container)}{environment.message_path(container.spec)}")

    def was_started(self, container: Container) -> bool:
        """Whether the container ran here already, under a node that is gone now."""
        return self._log(container).exists()

    def clean(self) -> None:
        """Remove what the pod left on this machine, its logs too."""
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._logs, ignore_errors=True)

    def _root(self, container: Container) -> Path:
        return self._folder / "root" / container.name

    def _log(self, container: Container) -> Path:
        return self._logs / f"{container.name}.log"

    def _base(self, image: Image) -> dict[str, str]:
        """The image's environment, with a HOME and a TMPDIR that are the pod's and not this user's."""
        base = images.base_environment(image)
        for name in ("HOME", "TMPDIR"):
            place = self._folder / name.lower()
            place.mkdir(parents=True, exist_ok=True)
            base.setdefault(name, str(place))
        return base


def leftovers(folders: Folders) -> list[Path]:
    """The sandboxes and logs of an earlier node; ask before this one makes any."""
    return [*folders.pods.glob("*"), *folders.logs.glob("*/*/*")]


def sweep(left: list[Path], uids: set[str]) -> None:
    """Remove what `left` holds of pods that are gone: all but those in `uids`."""
    wanted = uids | {_folder_name(uid) for uid in uids}
    for folder in left:
        if folder.name not in wanted:
            shutil.rmtree(folder, ignore_errors=True)


def _folder_name(uid: str) -> str:
    """Short, as a Unix socket's whole path has room for 107 characters."""
    return uid.replace("-", "")[:16]
