"""What of a store nobody needs any more: found from its listing, its manifests and the jobs that there are. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_api import layout
from finetune_api.stage import Manifest, ModelManifest
from finetune_cli.errors import job_failed
from finetune_trainer.objects import ObjectInfo

Read = Callable[[str], bytes | None]
_MANIFEST = "/manifest.json"


@dataclass(frozen=True)
class Jobs:
    """The FinetuneJobs whose storage this is: their uids, and the content keys that their status names."""

    uids: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Garbage:
    """Something that may go: what it is, its objects in the order in which they go, and its age in days."""

    what: str
    why: str
    keys: tuple[str, ...]
    bytes: int
    days: float

    def __str__(self) -> str:
        return f"{self.what}  {len(self.keys)} objects, {self.days:.0f} days old: {self.why}"


def garbage(objects: Iterable[ObjectInfo], read: Read, jobs: Jobs, now: float, days: float) -> list[Garbage]:
    """All that is older than `days` and that no published manifest and no job refers to, by place.

    An output is as old as its youngest object. Raises CliError where a published manifest cannot be read, since what it
    needs would be lost.
    """
    everything = {item.key: item for item in objects}
    manifests = _manifests(everything, read)
    needed = _needed(everything, read, manifests) | jobs.keys
    found = [
        *_unused_folders(everything, "stages", needed, "no published model and no job refers to it"),
        *_other_attempts(everything, needed, manifests),
        *_unused_folders(everything, "checkpoints", jobs.keys, "no job goes on from it"),
        *_unused_folders(everything, "failures", jobs.keys, "the job that failed is gone"),
        *_unused_folders(everything, "prepared", jobs.uids, "the job is gone"),
        *_unused_folders(everything, layout.TOKENS, _learned_from(everything, read, jobs), "no job learns from them"),
    ]
    aged = ((what, why, items, (now - max(item.changed for item in items)) / 86400) for what, why, items in found)
    return [
        Garbage(what, why, _in_order(items), sum(item.size for item in items), age)
        for what, why, items, age in aged
        if age >= days
    ]


Found = tuple[str, str, list[ObjectInfo]]


def _manifests(everything: Mapping[str, ObjectInfo], read: Read) -> dict[str, Manifest]:
    """By content key, the manifests of stages that are ones."""
    found: dict[str, Manifest] = {}
    for path in everything:
        parts = path.split("/")
        if parts[0] == "stages" and len(parts) == 3 and path.endswith(_MANIFEST):
            try:
                found[parts[1]] = Manifest.model_validate_json(read(path) or b"")
            except ValidationError:
                continue
    return found


def _needed(everything: Mapping[str, ObjectInfo], read: Read, manifests: Mapping[str, Manifest]) -> set[str]:
    """The content keys of all that is published, and of what that was made from."""
    wanted: list[str] = []
    for path in everything:
        if path.startswith("models/") and path.endswith(_MANIFEST):
            try:
                model = ModelManifest.model_validate_json(read(path) or b"")
            except ValidationError as error:
                said = error.errors()[0]["msg"]
                raise job_failed(
                    f"{path} is no manifest ({said}), so nobody knows what it needs; mend it first"
                ) from error
            wanted += [artifact.key for artifact in model.artifacts]
    needed: set[str] = set()
    while wanted:
        key = wanted.pop()
        if key not in needed:
            needed.add(key)
            wanted += [item.key for item in manifests[key].inputs.values()] if key in manifests else []
    return needed


def _learned_from(everything: Mapping[str, ObjectInfo], read: Read, jobs: Jobs) -> set[str]:
    """The keys of the tokens that jobs which there are learn from, as their reports of prepare name them."""
    reports = [path for path in everything if path.startswith("prepared/") and path.split("/")[1] in jobs.uids]
    found: set[str] = set()
    for path in reports:
        with suppress(ValueError):
            content = json.loads(read(path) or b"{}")
            found |= {data["tokensKey"] for data in content.get("data", {}).values() if "tokensKey" in data}
    return found


def _unused_folders(
    everything: Mapping[str, ObjectInfo], kind: str, needed: Iterable[str], why: str
) -> Iterable[Found]:
    """Folders of `kind`, named by what they belong to, that belong to nothing that is `needed`."""
    folders: dict[str, list[ObjectInfo]] = defaultdict(list)
    for path, item in everything.items():
        parts = path.split("/")
        if parts[0] == kind and len(parts) > 2:
            folders[parts[1]].append(item)
    return [(f"{kind}/{name}", why, items) for name, items in sorted(folders.items()) if name not in set(needed)]


def _other_attempts(
    everything: Mapping[str, ObjectInfo], needed: Iterable[str], manifests: Mapping[str, Manifest]
) -> Iterable[Found]:
    """What attempts sent that did not win, beside the outputs that stay."""
    folders: dict[str, list[ObjectInfo]] = defaultdict(list)
    for path, item in everything.items():
        parts = path.split("/")
        if parts[0] == "stages" and len(parts) > 3 and parts[1] in needed and parts[1] in manifests:
            folder = layout.attempt_path(parts[1], parts[2])
            if parts[2] != manifests[parts[1]].attempt:
                folders[folder].append(item)
    return [(folder, "another attempt's output counts", items) for folder, items in sorted(folders.items())]


def _in_order(items: list[ObjectInfo]) -> tuple[str, ...]:
    """The manifests go first: without one there is no output, with one it must be whole."""
    return tuple(item.key for item in sorted(items, key=lambda item: (not item.key.endswith(_MANIFEST), item.key)))
