"""What the operator remembers of the cluster: less than the API server sent, and no older than its own writes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from finetune_api.quantity import amount

Body = dict[str, Any]
# As long as a uid or a digest, and no message.
SHORT_WORD = 64
Key = tuple[str, str]
# nvidia.com/gpu, nvidia.com/mig-1g.5gb, amd.com/gpu, gpu.intel.com/xe: one each.
_GPU = re.compile(r"/(gpu$|mig-)|^gpu\..*/")


def slim(body: Mapping[str, Any]) -> Body:
    """What the operator reads of an object; the rest would only cost memory, thousands of times.

    Of a Job's spec that is all but the template, of a pod's its node and the number of its GPUs. Names and short words,
    which each object has anew, are held once for all of them.
    """
    meta = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    found = {**body, "metadata": meta}
    spec = body.get("spec") or {}
    if "template" in spec:
        found["spec"] = {name: value for name, value in spec.items() if name != "template"}
    elif "containers" in spec:
        node = {"nodeName": spec["nodeName"]} if spec.get("nodeName") else {}
        found["spec"] = {"gpus": sum(_gpus(container) for container in spec["containers"]), **node}
    lean: Body = _shared(found)
    return lean


def _shared(value: Any) -> Any:
    """A copy of JSON in which equal names and short words are the same object."""
    if isinstance(value, dict):
        return {sys.intern(name): _shared(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shared(inner) for inner in value]
    return sys.intern(value) if isinstance(value, str) and len(value) <= SHORT_WORD else value


def _gpus(container: Mapping[str, Any]) -> float:
    """The GPUs of a container, whoever made them: what its limits name beyond CPUs, memory and the like."""
    limits = (container.get("resources") or {}).get("limits") or {}
    try:
        return float(sum(amount(value) for name, value in limits.items() if _GPU.search(name)))
    except ValueError:
        return 0.0


class Echoes:
    """What this process wrote and the watches have not shown yet.

    A decision that rests on the state before a write would be made twice, and its own write be refused.
    """

    def __init__(self) -> None:
        self._jobs: dict[Key, Body] = {}

    def wrote(self, key: Key, body: Body) -> None:
        """A write of the FinetuneJob `key` was answered with `body`."""
        self._jobs[key] = slim(body)

    def newest(self, key: Key, shown: Body | None) -> Body | None:
        """The newer of what the watch shows and what was written; None where the watch shows that it is gone."""
        written = self._jobs.get(key)
        if written is None or shown is None or _is_newer(shown, written):
            self._jobs.pop(key, None)
            return shown
        return written

    def heard(self, key: Key, body: Mapping[str, Any]) -> bool:
        """The watch has shown `key` as `body`; whether that is no news: what was written here, or older."""
        written = self._jobs.get(key)
        if written is None:
            return False
        if not _is_newer(body, written):
            return True
        del self._jobs[key]
        return is_same(body, written)

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._jobs.pop(key, None)


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two bodies are one object in one version."""
    return all(one["metadata"].get(name) == other["metadata"].get(name) for name in ("uid", "resourceVersion"))


def _is_newer(shown: Mapping[str, Any], written: Body) -> bool:
    """Whether `shown` is `written` or younger; another object of the same name always is."""
    ours, theirs = written["metadata"], shown["metadata"]
    if ours.get("uid") != theirs.get("uid"):
        return True
    try:
        return int(theirs["resourceVersion"]) >= int(ours["resourceVersion"])
    except (KeyError, ValueError):
        return True
