"""Where files and models are: Olive's local paths and AzureML resources → what a pod can read."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from finetune_api.olive.notes import NoteKind
from finetune_api.olive.reading import Source

PLACEHOLDER_ROOT = "s3://your-bucket"
# Two parts of the hub's alphabet, or the one of its earliest models (`gpt2`).
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PLACEHOLDER = re.compile(r"\byour\b", re.IGNORECASE)
_FILES = frozenset({"file", "folder", "string_name"})


@dataclass(frozen=True)
class Places:
    """Where local paths of the input are now: below `root`, or, with `here`, still on this machine.

    `exists` tells whether a path is there on this machine, for `a/b` may be a folder as well as a hub id.
    """

    root: str | None = None
    here: bool = False
    exists: Callable[[str], bool] = field(default=lambda _path: False)

    def is_hub_id(self, text: str) -> bool:
        """Whether `text` is a model's id on the hub; everything else is a path."""
        return _HUB_ID.fullmatch(text) is not None and not self.exists(text)

    def of(self, source: Source, target: str) -> str:
        """The URI for the local path or URI of `source`, which stands at `target` of the job."""
        path = str(source.value)
        if _URI.match(path):
            if not path.startswith(("s3://", "pvc://", "configMap://")):
                source.note(NoteKind.DECIDE, f"pods cannot read {path}: copy it to s3:// and change {target}.")
                return f"{self.root or PLACEHOLDER_ROOT}/{path.split('://', 1)[1]}"
            source.land(target)
            return path
        source.land(target)
        if self.here:
            return path if path.startswith(("/", "~", "./", "../")) else f"./{path}"
        if self.root is None:
            source.note(NoteKind.DECIDE, f"a local path: upload it and write its URI at {target}, or give --data-root.")
        else:
            source.note(NoteKind.CHANGED, f"a local path: upload it to {below(self.root, path)}.")
        return below(self.root or PLACEHOLDER_ROOT, path)


def below(root: str, path: str) -> str:
    """`path` below `root`, without what only this machine knows: drive, leading `/`, `..`."""
    posix = re.sub(r"^[A-Za-z]:", "", path.replace("\\", "/"))
    parts = [part for part in posixpath.normpath(posix).split("/") if part not in ("", ".", "..", "~")]
    return "/".join([root.rstrip("/"), *(parts or ["data"])])


def is_placeholder(value: object) -> bool:
    """Whether a template's `Your …` was never replaced."""
    return isinstance(value, str) and _PLACEHOLDER.search(value) is not None


def file_of(source: Source, places: Places, target: str) -> str | None:
    """The URI of one file or folder, given as a path or as one of Olive's resources; None where there is none."""
    if isinstance(source.value, str):
        return places.of(source, target)
    if not isinstance(source.value, Mapping):
        source.note(NoteKind.DECIDE, f"a path is wanted here, this is {source.value!r}; write {target}.")
        return None
    fields = source.fields("config")
    kind = fields.pop("type", None)
    name = str(kind.value).lower() if kind else "?"
    if name in _FILES:
        return _plain(kind, fields, places, target)
    return _azure(name, kind, fields, places, target)


def _plain(kind: Source | None, fields: dict[str, Source], places: Places, target: str) -> str | None:
    if kind is not None:
        kind.left_out("the URI says what it is.")
    keys = [key for key in ("path", "name") if key in fields]
    inner = fields.pop(keys[0]) if keys else None
    for item in fields.values():
        item.left_out("belongs to Olive's resource path; the URI says all.")
    return places.of(inner, target) if inner else None


def _azure(name: str, kind: Source | None, fields: dict[str, Source], places: Places, target: str) -> str | None:
    relative = fields.pop("relative_path", None) or fields.pop("datastore_url", None)
    if kind is not None:
        kind.note(NoteKind.DECIDE, f"pods read no {name}: copy what it names to s3:// and write its URI at {target}.")
    for item in fields.values():
        item.left_out("an AzureML address; pods read s3:// with the keys of spec.storage.credentialsSecretRef.")
    if relative is None:
        return None
    if is_placeholder(relative.value):
        relative.note(NoteKind.DECIDE, f"still the template's placeholder: write the file's URI at {target}.")
    return places.of(relative, target)
